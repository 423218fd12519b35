"""The verdict in words: what a reader of the page sees first."""

import re
from dataclasses import dataclass

from epmq_export.publishing.report import AVERAGE, FIXED_ROWS, JudgedFile, PooledLoss, Report
from epmq_export.publishing.tables import SIGNS
from epmq_export.publishing.words import DROPS, amount, interval, percent, several, size


@dataclass(frozen=True)
class Headline:
    """The verdict on a run."""

    outcome: str
    """One of pass, undecided and fail."""

    sign: str
    """The sign of the outcome, which tells it without a colour."""

    title: str
    sentence: str
    faults: list[str]
    doubts: list[str]
    facts: list[tuple[str, str]]
    """Names and values of what most readers look for."""


def headline(report: Report) -> Headline:
    """Return the verdict on a run."""
    faults, doubts = ([_short(report, text) for text in texts] for texts in (report.broken, report.warnings))
    return Headline(
        outcome=report.verdict,
        sign=SIGNS[report.verdict].split()[0],
        title=report.verdict.capitalize(),
        sentence=_sentence(report),
        faults=faults,
        doubts=doubts,
        facts=_facts(report),
    )


def _sentence(report: Report) -> str:
    if report.verdict == "fail":
        count = several(len(report.broken), "fault")
        return f"{count} found: these files are not what was calibrated, or lose more than the recipe allows."
    if report.verdict == "undecided":
        return (
            "No fault was found: the files hold what was calibrated, and their runtimes compute it. But the "
            "evaluation has too few lines to say that nothing is lost beyond the margin."
        )
    unjudged = [file.row for file in report.files if file.checks.tasks is None]
    if unjudged:
        return (
            "The files hold what was calibrated, bit for bit, and their runtimes compute it. No task was "
            "judged, since no recipe was at hand."
        )
    return (
        "The files hold what was calibrated, bit for bit, their runtimes compute it, and on the tasks they "
        "lose no more against the reference than the recipe allows."
    )


def tasks_in_words(report: Report) -> list[str]:
    """Return a sentence on the tasks of each file."""
    return [
        f"{file.row}: {_pooled(pooled)}"
        for file in report.judged
        if file.checks.tasks
        for pooled in file.checks.tasks.pooled
    ]


def _pooled(pooled: PooledLoss) -> str:
    drop = pooled.measure in DROPS
    value = abs(pooled.loss.value) if drop else pooled.loss.value
    side = "below" if pooled.loss.value >= 0 else "above"
    what = (
        f"the {pooled.measure} is {amount(pooled.measure, value)} {side} the reference's"
        if drop
        else f"the {pooled.measure} from the reference is {amount(pooled.measure, value)}"
    )
    count = len(pooled.tasks)
    over = f"on average over {count} tasks" if count > 1 else f"on task {''.join(pooled.tasks)}"
    end = f"at least {amount(pooled.measure, pooled.loss.lower)}"
    if pooled.outcome != "fail":
        end = f"at most {amount(pooled.measure, pooled.loss.upper)}"
    bound = f"By its one-sided bound of 95 %, by which `verify.rule: confidence` decides, it is {end}."
    range_of = "drop" if drop else "distance"
    return (
        f"{over} ({several(pooled.lines, 'line')}), {what}; "
        f"the 95 % interval of the {range_of} is {interval(pooled.measure, pooled.loss)}, and the margin "
        f"{amount(pooled.measure, pooled.margin)}. {bound} {pooled.outcome.capitalize()}."
    )


def _facts(report: Report) -> list[tuple[str, str]]:
    found = [
        (row, f"{percent(report.scores[row][AVERAGE])} %")
        for row in report.scores
        if row in FIXED_ROWS or any(file.row == row for file in report.files)
    ]
    sizes: dict[str, JudgedFile] = {}
    for file in report.files:
        sizes.setdefault(file.path, file)
    return found + [
        (f"{file.format} file", size(file.bytes + sum(other.bytes for other in file.others)))
        for file in sizes.values()
    ]


def _short(report: Report, sentence: str) -> str:
    """Return a sentence without the place of the run on the machine that made it."""
    root = root_of(report)
    return re.sub(rf"(?<![\w./\\-]){re.escape(root)}(?=\S)", "", sentence) if root else sentence


def root_of(report: Report) -> str:
    """Return the directory of a run with its separator, or an empty text where its files do not tell it."""
    places = {re.sub(r"[^/\\]*$", "", file.packed) for file in report.files}
    return places.pop() if len(places) == 1 else ""
