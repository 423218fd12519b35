"""The verdict on each written file in each of its runtimes, and on all of them together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epmq_export import files
from epmq_export.verification.checks import Check
from epmq_export.verification.tasks.bench import Scores

CHECKS = ("codes", "metadata", "graph", "tasks")


@dataclass(frozen=True)
class HashedFile:
    """A file as it was when it was judged."""

    path: Path
    """Where it is."""

    sha256: str
    """Its SHA-256, in hexadecimal digits."""

    bytes: int
    """Its size."""

    @classmethod
    def of(cls, path: Path) -> "HashedFile":
        """Return a file with its hash and size."""
        return cls(path, files.sha256(path), path.stat().st_size)

    def as_dict(self) -> dict[str, Any]:
        """Return it as report.json has it."""
        return {"path": str(self.path), "sha256": self.sha256, "bytes": self.bytes}


@dataclass(frozen=True, kw_only=True)
class FileVerdict:
    """The verdict on one written model in one of the runtimes that read it."""

    file: HashedFile
    """The file that tasks are judged by."""

    others: Sequence[HashedFile]
    """The files that belong to the same model."""

    format: str
    """The name of its format."""

    packed: Path
    """The directory of the packed checkpoint that it was written from."""

    runtime: str
    """The name of the runtime."""

    runtime_version: str
    """The version of the runtime."""

    checks: Mapping[str, Check]
    """The checks by their names, in the order of `CHECKS`, without `tasks` where there was no recipe."""

    scores: Scores
    """The scores by task. Empty without a recipe, and where the tasks could not be run."""

    notes: Mapping[str, Any]
    """Facts from the format and the runtime, such as how many linears it fuses. There are none for a file
    whose codes are wrong.
    """

    @property
    def path(self) -> Path:
        """Return the path of the file that tasks are judged by."""
        return self.file.path

    @property
    def row(self) -> str:
        """Return the name of its row in the scores."""
        return f"{self.format} in {self.runtime}"

    @property
    def broken(self) -> Sequence[str]:
        """Return a sentence for each fault. Empty where there is none."""
        return [sentence for check in self.checks.values() for sentence in check.broken]

    @property
    def passed(self) -> bool:
        """Return whether every check passed."""
        return not self.broken

    def as_dict(self) -> dict[str, Any]:
        """Return its entry of `files` in report.json."""
        checks = {name: dict(self.checks[name].facts) if name in self.checks else None for name in CHECKS}
        return {
            "path": str(self.path),
            "format": self.format,
            "packed": str(self.packed),
            "sha256": self.file.sha256,
            "bytes": self.file.bytes,
            "others": [other.as_dict() for other in self.others],
            "runtime": self.runtime,
            "runtime_version": self.runtime_version,
            "checks": checks,
            "notes": dict(self.notes),
        }


@dataclass(frozen=True)
class Verdict:
    """The verdict on the files of a model."""

    scores: Mapping[str, Scores]
    """The scores by task of each row: base, experts, merged, reference, and each file in its runtime. Empty
    without a recipe.
    """

    files: Sequence[FileVerdict]
    """The verdict on each file in each runtime that reads it."""

    broken: Sequence[str]
    """A sentence for each fault. Empty where there is none."""

    @property
    def passed(self) -> bool:
        """Return whether every file is as good as the reference."""
        return not self.broken
