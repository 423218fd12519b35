"""The losses of files against the reference, as `epmq run` and `verify` show them: by task, and in short."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from epmq_export.console.terminal import mark, visible

if TYPE_CHECKING:  # It imports torch and numpy, which the commands that need neither shall not wait for.
    from epmq_export.verification.verdict import FileVerdict

Facts = Mapping[str, Any]
"""The facts of the check of tasks, as report.schema.json has them."""

_DROPS = ("accuracy", "rank correlation", "agreement with the expert", "score")
"""The measures whose losses are drops, shown in points. Distances are shown as they are."""


def losses_table(files: Sequence["FileVerdict"]) -> Table:
    """Return the table of losses against the reference with intervals of 95 %: a row for each task and for
    each mean that has a margin, a column for each file in each of its runtimes.
    """
    told = [file.checks["tasks"].facts for file in files]
    table = Table(
        title="Loss against the reference (95 % interval)",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("task", overflow="fold")
    table.add_column("lines", justify="right")
    for file in files:
        table.add_column(file.row.replace(" in ", " in\n"))
    for task, first in told[0]["by_task"].items():
        table.add_row(
            Text(visible(task)),
            f"{first['lines']:,}",
            *(_loss(facts["by_task"][task]) for facts in told),
        )
    for place, group in enumerate(told[0]["pooled"]):
        cells = (facts["pooled"][place] for facts in told)
        table.add_row(_name(told[0], group), f"{group['lines']:,}", *map(_loss, cells), style="bold")
    return table


def _name(facts: Facts, group: Facts) -> str:
    """Return the name of the row of a mean: with its key, where there are several."""
    return "average" if len(facts["pooled"]) == 1 else f"average ({group['key']})"


def _loss(told: Facts) -> Text:
    """Return a loss with its interval, marked where the loss is beyond its margin or surely within it."""
    ends = (told["loss"][end] for end in ("value", "low", "high"))
    value, low, high = (_number(told["measure"], end) for end in ends)
    style = {"fail": "bold red", "pass": "green"}.get(told["outcome"], "")
    return Text(f"{value} ({low} to {high})", style)


def _number(measure: str, value: float) -> str:
    return f"{100 * value:.1f}".replace("-0.0", "0.0") if measure in _DROPS else f"{value:.2g}"


def tasks_outcome(facts: Facts, passed: bool) -> Text:
    """Return the outcome of the check of tasks in a few words."""
    if facts["outcome"] is None:
        return mark(passed, "no output")
    if facts["rule"] == "point":
        told = facts["by_task"][facts["worst"]["task"]]
        value, margin = (_number(told["measure"], each) for each in (told["loss"]["value"], told["margin"]))
        what = "drop" if told["measure"] in _DROPS else told["measure"].split()[0]
        return mark(passed, f"worst {what} {value}, up to {margin}")
    order = ("fail", "undecided", "pass")
    group = min(facts["pooled"], key=lambda group: order.index(group["outcome"]))
    side, bound = ("over", "lower") if group["outcome"] == "fail" else ("under", "upper")
    what = "drop" if group["measure"] in _DROPS else group["measure"].split()[0]
    numbers = (_number(group["measure"], each) for each in (group["loss"][bound], group["margin"]))
    text = "{} {} {}, up to {}".format(what, side, *numbers)
    return Text(f"? {text}", "yellow") if group["outcome"] == "undecided" and passed else mark(passed, text)


def distribution_rows(told: Sequence[Facts]) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of how far single outputs are from the reference's, of each file: the mean over tasks
    and, beside it, that of outputs that the runtime computes exactly.
    """
    if any(ratios := [_ratio(facts) for facts in told]):
        yield "ratio", ratios
    for name, key in (("distance", "distance"), ("first choice", "same_first"), ("neighbours", "neighbours")):
        cells = [_mean_beside_floor(facts, key) for facts in told]
        if any(cells):
            yield name, cells


def _ratio(facts: Facts) -> str:
    ratio = facts.get("ratio")
    return "" if ratio is None else f"{100 * ratio['value']:.1f} %, MLPerf asks {100 * ratio['gate']:.0f}"


def _mean_beside_floor(facts: Facts, key: str) -> str:
    tasks = facts.get("by_task", {}).values()
    own, floor = _mean(tasks, key), _mean([task["floor"] for task in tasks if task["floor"]], key)
    told = [
        f"{each:.1e}" if key == "distance" else f"{100 * each:.1f} %"
        for each in (own, floor)
        if each is not None
    ]
    return ", exact ".join(told)


def _mean(tasks: Sequence[Facts], key: str) -> float | None:
    """Return the mean of a number of the tasks, or None where none has it."""
    found = [task[key]["mean"] if key == "distance" else task[key] for task in tasks if task[key]]
    return sum(each["value"] for each in found) / len(found) if found else None
