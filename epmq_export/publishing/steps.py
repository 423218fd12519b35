"""Where the score was lost on the way from the experts to a file: merge, calibration, rounding, runtime.

A run whose recipe has `verify.unrounded` has scored the calibrated model before its rounding. Any other has
not, and calibration and rounding are one step there: the losses of layers, which are distances and no scores,
cannot say how the score of that step is shared.
"""

from dataclasses import dataclass
from itertools import pairwise

from epmq_export.publishing.report import AVERAGE, UNROUNDED, Report

_WAY = ("experts", "merged", UNROUNDED, "reference")
"""The rows that all files share, in the order of the way."""

_NAMES = {
    ("experts", "merged"): "merge",
    ("merged", UNROUNDED): "calibration",
    (UNROUNDED, "reference"): "rounding",
    ("merged", "reference"): "calibration and rounding",
}
"""The names of the steps between them."""


@dataclass(frozen=True)
class Step:
    """One step on the way."""

    name: str
    begin: str
    """The row of scores that it leads from."""

    end: str
    """The row of scores that it leads to."""


def steps_of(report: Report) -> list[Step]:
    """Return the steps that the report has the scores of: those that all files share, then one for each file,
    from the reference.
    """
    shared = [
        Step(_NAMES[ends], *ends)
        for ends in pairwise(row for row in _WAY if row in report.scores)
        if ends in _NAMES
    ]
    if "reference" not in report.scores:
        return shared
    return [
        *shared,
        *(Step(file.row, "reference", file.row) for file in report.files if file.row in report.scores),
    ]


def change(report: Report, step: Step, task: str = AVERAGE) -> float:
    """Return what a step changes in the score of a task, or in the average."""
    return report.scores[step.end][task] - report.scores[step.begin][task]
