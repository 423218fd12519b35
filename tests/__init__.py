"""The tests mirror the rooms: a folder a room; `tiny` has the small models and files that they run on."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The project's own directory."""
