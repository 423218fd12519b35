"""Where the score was lost on the way from the experts to a file: merge, calibration with rounding, runtime.

The report has the scores of four models on this way. The calibrated model before its rounding is none of
them, so that calibration and rounding are one step in scores; the losses of layers tell the two apart.
"""

from dataclasses import dataclass

from epmq_export.publishing.report import AVERAGE, Report

WAY = (("merge", "experts", "merged"), ("calibration and rounding", "merged", "reference"))
"""The name of each step that all files share, and the rows that it leads from and to."""


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
    shared = [Step(*step) for step in WAY if step[1] in report.scores and step[2] in report.scores]
    if "reference" not in report.scores:
        return shared
    return [
        *shared,
        *(Step(file.row, "reference", file.row) for file in report.files if file.row in report.scores),
    ]


def change(report: Report, step: Step, task: str = AVERAGE) -> float:
    """Return what a step changes in the score of a task, or in the average."""
    return report.scores[step.end][task] - report.scores[step.begin][task]
