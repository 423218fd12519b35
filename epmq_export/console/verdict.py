"""The tables that `epmq run`, `verify` and `evaluate` show: scores by task, checks by file, and the
verdict.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from epmq_export.console.losses import distribution_rows, losses_table, tasks_outcome
from epmq_export.console.terminal import columns, mark, out, print_result, show_table, visible

if TYPE_CHECKING:  # These import torch and numpy, which the commands that need neither shall not wait for.
    from epmq_export.verification.checks import Check
    from epmq_export.verification.verdict import FileVerdict, Verdict

NAME = 12
"""The columns of a task's name that the narrowest terminal leaves."""


Scores = Mapping[str, Mapping[str, float]]
"""The scores by row and task."""

Intervals = Mapping[str, Mapping[str, tuple[float, float]]]
"""Their intervals of 95 %."""


def scores_table(scores: Scores, width: int, intervals: Intervals | None = None) -> Table:
    """Return the table of accuracies in percent: a row for each task, so that many fit a terminal, and a
    column for each model. Where they do not fit the width, headers have two lines and long names fold.
    """
    table = Table(
        title="Accuracy, percent" + ("" if intervals is None else " (95 % interval)"),
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    tasks = [task for task in next(iter(scores.values())) if task != "average"]
    longest = max(cell_len(visible(task)) for task in (*tasks, "average"))
    heads = [*scores]
    if longest + sum(len(name) + 2 for name in heads) + 2 > width:
        heads = [name.replace(" in ", " in\n") for name in heads]
    taken = sum(max(5, *map(len, head.split("\n"))) + 2 for head in heads) + 2
    table.add_column("task", overflow="fold", max_width=max(NAME, width - taken))
    for head in heads:
        table.add_column(head, justify="right", overflow="fold")
    for task in (*tasks, "average"):
        table.add_row(
            Text(visible(task)),
            *(
                _score(row[task], None if intervals is None else intervals[name][task])
                for name, row in scores.items()
            ),
            style="bold" if task == "average" else None,
        )
    return table


def _score(value: float, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return f"{100 * value:.1f}"
    return f"{100 * value:.1f} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"


def show_scores(scores: Scores, intervals: Intervals | None = None) -> None:
    """Show the table of accuracies, with their intervals of 95 % where these are given."""
    show_table(scores_table(scores, columns(), intervals))


def _size(file: "FileVerdict") -> str:
    """Return the size of the file that tasks are judged by and, where others lie beside it, the size of all
    of them.
    """
    own, beside = file.file.bytes, sum(other.bytes for other in file.others)
    return f"{own / 1e6:.1f} MB" + (f" of {(own + beside) / 1e6:.1f} MB" if beside else "")


def checks_table(files: Sequence["FileVerdict"]) -> Table:
    """Return the table of checks: a column for each file in each of its runtimes, a row for each check."""
    table = Table(title="Checks", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("check")
    for file in files:
        table.add_column(file.row)
    # Without a recipe tasks are not checked; of a model that no packed checkpoint is of, nothing else can be.
    own = any(file.packed is not None for file in files)
    for name in ("codes", "metadata", "graph", "tasks") if own else ("tasks",):
        table.add_row(name, *(_outcome(name, file.checks.get(name)) for file in files))
    told = [file.checks["tasks"].facts for file in files if "tasks" in file.checks]
    for name, cells in distribution_rows(told) if told else ():
        table.add_row(name, *cells)
    table.add_row("size", *map(_size, files))
    return table


def _outcome(name: str, check: "Check | None") -> Text:
    """Return the outcome of one check of one file in a few words."""
    if check is None:
        return Text("not checked: no recipe", "yellow")
    facts, passed = check.facts, check.passed
    match name:
        case "codes":
            text = f"{facts['tensors']} tensors {'bit-equal' if passed else 'read, not all equal'}"
        case "metadata":
            text = "equal" if passed else f"{facts['differences']} differ"
        case "graph":
            value = facts["value"]
            text = "no output" if value is None else f"differs {value:.1e}, up to {facts['tolerance']:.0e}"
        case _:
            return tasks_outcome(facts, passed)
    return mark(passed, text)


def show_verdict(verdict: "Verdict") -> None:
    """Show scores, losses, checks, fused layers and the verdict, with a line for each fault and doubt."""
    if verdict.against is not None:
        other = verdict.against
        out.print(Text(f"reference: {visible(str(other.path))} in {other.runtime}"), soft_wrap=True)
    if verdict.scores:
        show_scores(verdict.scores)
    if ran := [file for file in verdict.files if file.lines]:
        show_table(losses_table(ran))
    show_table(checks_table(verdict.files))
    for file in verdict.files:
        if "fused" in file.notes:
            fused, linears = file.notes["fused"], file.notes["linears"]
            out.print(
                f"{file.format}: {file.runtime} fuses {fused} of {linears} quantised linears",
                style=None if fused == linears else "yellow",
            )
    for sentence in verdict.broken:
        out.print(mark(False, sentence), soft_wrap=True)
    for sentence in verdict.warnings:
        out.print(Text(f"! {visible(sentence)}", "yellow"), soft_wrap=True)
    styles = {"pass": "bold green", "undecided": "bold yellow", "fail": "bold red"}
    out.print(f"verdict: {verdict.outcome}", style=styles[verdict.outcome])
    for path in dict.fromkeys(str(file.path) for file in verdict.files):
        print_result(path)
