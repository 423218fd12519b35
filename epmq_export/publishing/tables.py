"""The tables of the page. Each holds what a plot shows, or the evidence of a check."""

from collections.abc import Sequence
from dataclasses import dataclass

from epmq_export.publishing.report import (
    AVERAGE,
    Distribution,
    Estimate,
    JudgedFile,
    Layer,
    PairedTable,
    Report,
    StoredTensor,
)
from epmq_export.publishing.stages import STAGES
from epmq_export.publishing.steps import change, steps_of
from epmq_export.publishing.words import DROPS, bare, duration, interval, percent, points, size, small

SIGNS = {"pass": "✓ pass", "undecided": "? undecided", "fail": "✗ fail"}
"""Each outcome as the page writes it: the sign tells it without a colour."""


@dataclass(frozen=True)
class Table:
    """A table of the page. The first cell of each row names it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = True
    """Whether the cells but the first are numbers, which stand at the right."""

    shown: bool = False
    """Whether the page shows it at once. Others are opened by the reader."""


def scores(report: Report) -> Table:
    """Return the scores by task with their intervals."""
    rows = [
        [
            task,
            *(
                f"{percent(report.scores[row][task])} ({percent(report.intervals[row][task][0])} to "
                f"{percent(report.intervals[row][task][1])})"
                for row in report.rows
            ),
        ]
        for task in (*report.tasks, AVERAGE)
    ]
    return Table("Scores in percent, with intervals of 95 %", ["task", *report.rows], rows)


_LOSSES = (
    "task",
    "lines",
    "loss",
    "95 % interval",
    "margin",
    "only reference / only file right",
    "flips",
    "McNemar's p",
    "p beyond the margin (Holm)",
    "outcome",
)


def losses(report: Report, file: JudgedFile) -> Table:
    """Return what a file loses on each task, and on average."""
    tasks = file.checks.tasks
    assert tasks is not None
    rows = []
    for pooled in tasks.pooled:
        name = f"average ({pooled.key})" if len(tasks.pooled) > 1 else AVERAGE
        loss = _loss(pooled.measure, pooled.loss, pooled.margin)
        rows.append([name, f"{pooled.lines:,}", *loss, *[""] * 4, SIGNS[pooled.outcome]])
    for name, task in tasks.by_task.items():
        loss = _loss(task.measure, task.loss, task.margin)
        told = [*_paired(task.table), small(task.p_holm), SIGNS[task.outcome]]
        rows.append([name, f"{task.lines:,}", *loss, *told])
    caption = f"Loss of {file.row} against the reference: drops in points, distances as they are"
    return Table(caption, _LOSSES, rows)


def _paired(table: PairedTable | None) -> list[str]:
    """Return how often only one of file and reference is right."""
    if table is None:
        return ["", "", ""]
    both = f"{table.only_reference} / {table.only_file}"
    return [both, f"{percent(table.flips)} %", small(table.mcnemar_p)]


def _loss(measure: str, loss: Estimate, margin: float) -> list[str]:
    unit = "" if measure in DROPS else f" ({measure})"
    return [f"{bare(measure, loss.value)}{unit}", interval(measure, loss), bare(measure, margin)]


def distribution(report: Report, file: JudgedFile) -> Table:
    """Return how near the outputs of a file are to the reference's, beside the runtime's own floor."""
    tasks = file.checks.tasks
    assert tasks is not None
    rows = []
    for name, task in tasks.by_task.items():
        rows.append([name, "as users run it", *_distribution(task)])
        if task.floor is not None:
            rows.append([name, "computed exactly", *_distribution(task.floor)])
    head = [
        "task",
        "runtime",
        "distance",
        "mean",
        "95 % interval",
        "99th percentile",
        "same first choice",
        "same ten neighbours",
    ]
    return Table(
        f"Outputs of {file.row} beside the reference's, and the floor of the runtime itself", head, rows
    )


def _distribution(told: Distribution) -> list[str]:
    distance = told.distance
    cells = ["", "", "", ""]
    if distance is not None:
        cells = [
            distance.measure,
            small(distance.mean.value),
            f"{small(distance.mean.low)} to {small(distance.mean.high)}",
            small(distance.p99.value),
        ]
    shares = (told.same_first, told.neighbours)
    return [*cells, *("" if share is None else f"{percent(share.value)} %" for share in shares)]


def steps(report: Report) -> Table:
    """Return what each step changes in the score of each task."""
    way = steps_of(report)
    rows = [
        [
            task,
            percent(report.scores[way[0].begin][task]),
            *(points(change(report, step, task)) for step in way),
        ]
        for task in (*report.tasks, AVERAGE)
    ]
    head = ["task", f"{way[0].begin}, percent", *(f"{step.name}, points" for step in way)]
    return Table("What each step changes; a file begins at the reference", head, rows)


def layers(caption: str, losses: list[Layer]) -> Table:
    """Return the losses of each layer."""
    rows = [
        [layer.tensor, layer.grid, *(small(getattr(layer, attribute)) for attribute, *_ in STAGES)]
        for layer in losses
    ]
    return Table(
        f"{caption}, as a share of the targets' energy",
        ["tensor", "grid", *(name for _, name, *_ in STAGES)],
        rows,
    )


def totals(caption: str, tensors: list[StoredTensor]) -> Table:
    """Return what each grid or type takes."""
    rows = [
        [name, f"{count:,}", f"{weights:,}", f"{taken:,}", f"{8 * taken / weights:.2f}" if weights else ""]
        for name, (count, weights, taken) in totals_of(tensors).items()
    ]
    return Table(caption, ["grid or type", "tensors", "weights", "bytes", "bits a weight"], rows)


def totals_of(tensors: list[StoredTensor]) -> dict[str, tuple[int, int, int]]:
    """Return the numbers of tensors, weights and bytes of each storage, the largest first."""
    found: dict[str, tuple[int, int, int]] = {}
    for tensor in tensors:
        count, weights, taken = found.get(tensor.storage, (0, 0, 0))
        found[tensor.storage] = (count + 1, weights + _product(tensor.shape), taken + tensor.bytes)
    return dict(sorted(found.items(), key=lambda entry: (-entry[1][2], entry[0])))


def _product(shape: list[int]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def tensors(caption: str, stored: list[StoredTensor]) -> Table:
    """Return the grid and the bytes of each tensor."""
    rows = [
        [tensor.tensor, tensor.storage, " × ".join(map(str, tensor.shape)), f"{tensor.bytes:,}"]
        for tensor in stored
    ]
    return Table(caption, ["tensor", "grid or type", "shape", "bytes"], rows)


def checks(report: Report) -> Table:
    """Return the outcome of each check of each file, with its evidence."""
    told = {"codes": _codes, "metadata": _metadata, "graph": _graph, "tasks": _tasks}
    rows = [[name, *map(words, report.files)] for name, words in told.items()]
    return Table("Checks", ["check", *(file.row for file in report.files)], rows, numbers=False, shown=True)


def _marked(passed: bool, text: str) -> str:
    return f"{'✓' if passed else '✗'} {text}"


def _codes(file: JudgedFile) -> str:
    check = file.checks.codes
    text = f"{check.tensors} tensors {'equal bit for bit' if check.equal else 'read, not all equal'}"
    decoded = f", {check.decoded_by_runtime} of them also as {file.runtime} decodes them"
    return _marked(check.equal, text + (decoded if check.decoded_by_runtime else ""))


def _metadata(file: JudgedFile) -> str:
    check = file.checks.metadata
    return _marked(check.equal, "equal" if check.equal else f"{check.differences} differ")


def _graph(file: JudgedFile) -> str:
    check = file.checks.graph
    if check.value is None:
        return _marked(False, "no output")
    return _marked(
        check.passed,
        f"differs from PyTorch by {small(check.value)} (rms relative, {check.samples} hard samples); "
        f"{small(check.tolerance)} is allowed",
    )


def _tasks(file: JudgedFile) -> str:
    check = file.checks.tasks
    if check is None:
        return "– not checked: no recipe"
    if check.outcome is None:
        return _marked(False, "no output")
    sign, word = SIGNS[check.outcome].split()
    allowed = "" if check.passed == (check.outcome != "fail") else ", which the recipe does not allow"
    rule = "" if check.rule == "confidence" else ", as measured"
    ratio = (
        ""
        if check.ratio is None
        else f"; {percent(check.ratio.value)} % of the reference's score, of which MLPerf asks "
        f"{percent(check.ratio.gate)} %"
    )
    return f"{sign} {word}{rule}{allowed}{ratio}"


def towers(report: Report) -> Table:
    """Return the difference of the graph by file and tower."""
    rows = [
        [f"{name}, {file.runtime}", small(value), small(file.checks.graph.tolerance)]
        for file in report.files
        for name, value in file.checks.graph.by_tower.items()
    ]
    return Table(
        "Graph: difference from PyTorch by file and tower, rms relative",
        ["file and tower", "difference", "allowed"],
        rows,
    )


def files(report: Report) -> Table:
    """Return the files with their sizes and hashes."""
    rows = {
        part.path: [part.path, file.format, size(part.bytes), part.sha256]
        for file in report.files
        for part in (file, *file.others)
    }
    return Table("Files", ["file", "format", "size", "SHA-256"], [*rows.values()], numbers=False, shown=True)


def inputs(report: Report) -> Table:
    """Return the inputs with their hashes."""
    rows = [[entry.path, entry.sha256] for entry in report.inputs]
    return Table("Inputs", ["input", "SHA-256"], rows, numbers=False)


def versions(report: Report) -> Table:
    """Return the versions of packages, and of runtimes."""
    runtimes = {file.runtime: file.runtime_version for file in report.files}
    return Table(
        "Versions",
        ["package or runtime", "version"],
        [*({**report.versions, **runtimes}).items()],
        numbers=False,
    )


def seconds(report: Report) -> Table:
    """Return the time of each stage."""
    return Table(
        "Time", ["stage", "time"], [[stage, duration(taken)] for stage, taken in report.seconds.items()]
    )
