"""The verdict on each written file in each of its runtimes, and on all of them together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epmq_export import files
from epmq_export.verification.checks import Check
from epmq_export.verification.statistics.decision import Outcome
from epmq_export.verification.statistics.estimate import Interval
from epmq_export.verification.statistics.lines import Lines
from epmq_export.verification.tasks.bench import Scores, intervals_of, scores_of

CHECKS = ("codes", "metadata", "graph", "tasks")
COMPARISON = "epmq-comparison-1"
"""The format of what a verdict on two models says of itself as JSON."""


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
class ComparedModel:
    """The model that another one is compared with."""

    path: Path
    """Where it is, as the user named it."""

    files: Sequence[HashedFile]
    """The files that hold it, the main one first."""

    format: str
    """The name of its format; `packed` for a packed checkpoint."""

    runtime: str
    """The name of the runtime that it ran in."""

    runtime_version: str
    """The version of the runtime."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "path": str(self.path),
            "format": self.format,
            "files": [file.as_dict() for file in self.files],
            "runtime": self.runtime,
            "runtime_version": self.runtime_version,
        }


@dataclass(frozen=True, kw_only=True)
class FileVerdict:
    """The verdict on one written model in one of the runtimes that read it."""

    file: HashedFile
    """The file that tasks are judged by."""

    others: Sequence[HashedFile]
    """The files that belong to the same model."""

    format: str
    """The name of its format."""

    packed: Path | None
    """The directory of the packed checkpoint that it was written from. None where it is compared with another
    model.
    """

    runtime: str
    """The name of the runtime."""

    runtime_version: str
    """The version of the runtime."""

    checks: Mapping[str, Check]
    """The checks by their names, in the order of `CHECKS`, without `tasks` where there was no recipe. A model
    that is compared with another one has `tasks` alone.
    """

    lines: Mapping[str, Lines] = field(repr=False)
    """What the file makes of each line, by task. Empty without a recipe, and where the tasks could not be
    run.
    """

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
    def warnings(self) -> Sequence[str]:
        """Return a sentence for each doubt that is no fault."""
        return [sentence for check in self.checks.values() for sentence in check.warnings]

    @property
    def scores(self) -> Scores:
        """Return the scores by task, and their mean as `average`. Empty where there are no lines."""
        return scores_of(self.lines) if self.lines else {}

    @property
    def passed(self) -> bool:
        """Return whether no check found a fault."""
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

    lines: Mapping[str, Mapping[str, Lines]] = field(repr=False)
    """What each row makes of each line, by task: base, experts, merged, unrounded where the recipe asks for
    it, reference, and each file in its runtime. Empty without a recipe.
    """

    files: Sequence[FileVerdict]
    """The verdict on each file in each runtime that reads it."""

    against: ComparedModel | None = None
    """The model that the only file is compared with, in place of a packed checkpoint."""

    evaluated: Mapping[str, str] = field(default_factory=dict)
    """The SHA-256 of the lines that each task is judged on, with their right answers. Empty without a
    recipe.
    """

    @property
    def scores(self) -> Mapping[str, Scores]:
        """Return the scores by task of each row, and their mean as `average`."""
        return {row: scores_of(lines) for row, lines in self.lines.items()}

    @property
    def intervals(self) -> Mapping[str, Mapping[str, Interval]]:
        """Return the interval of 95 % of each score."""
        return {row: intervals_of(lines) for row, lines in self.lines.items()}

    @property
    def broken(self) -> Sequence[str]:
        """Return a sentence for each fault. Empty where there is none."""
        # What is found of a file whatever runs it stands in the verdict of each of its runtimes.
        return [*dict.fromkeys(sentence for file in self.files for sentence in file.broken)]

    @property
    def warnings(self) -> Sequence[str]:
        """Return a sentence for each doubt that is no fault."""
        return [*dict.fromkeys(sentence for file in self.files for sentence in file.warnings)]

    @property
    def passed(self) -> bool:
        """Return whether no file has a fault."""
        return not self.broken

    @property
    def outcome(self) -> Outcome:
        """Return `fail` where a file has a fault, `undecided` where lines are too few to say of all files
        that they are as good as the reference, else `pass`.
        """
        if self.broken:
            return Outcome.FAIL
        tasks = [file.checks["tasks"].facts["outcome"] for file in self.files if "tasks" in file.checks]
        return Outcome.UNDECIDED if Outcome.UNDECIDED in tasks else Outcome.PASS

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict on two models as `epmq verify A --against B --json FILE` writes it."""
        (file,) = self.files
        assert self.against is not None  # A run's verdict is in report.json.
        return {
            "format": COMPARISON,
            "verdict": self.outcome.value,
            "broken": list(self.broken),
            "warnings": list(self.warnings),
            "model": {
                "path": str(file.path),
                "format": file.format,
                "files": [each.as_dict() for each in (file.file, *file.others)],
                "runtime": file.runtime,
                "runtime_version": file.runtime_version,
            },
            "against": self.against.as_dict(),
            "tasks": dict(file.checks["tasks"].facts),
            "scores": dict(self.scores),
        }
