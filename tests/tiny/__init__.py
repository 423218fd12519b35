"""Small models, files and stand-ins that the tests are built on, written by code; a file a kind."""
