"""The rules of merging, one or a few akin a file: each module here declares `RULES`."""
