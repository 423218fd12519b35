"""What a part of the benchmark of speed is asked."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Asked:
    """How to measure, whatever is measured."""

    work: Path
    """The folder in which models are written and kept."""

    repeats: int
    """The number of runs of each side."""

    mergekit: Path | None
    """The command mergekit-yaml of another environment, or None to leave it out."""

    peer_python: Path | None
    """An interpreter with llmcompressor, or None to leave it out."""
