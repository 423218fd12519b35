"""What a person sees: progress on stderr, tables on stdout. A bar only on a terminal, plain lines
elsewhere.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from epmq_export.listing import origin, rows, short, visible
from epmq_export.tensors.description import Description

if TYPE_CHECKING:  # they import torch and numpy, which the commands that need neither shall not wait for
    from epmq_export.doctor import Diagnosis
    from epmq_export.pipeline.forecast.costs import Memory
    from epmq_export.pipeline.forecast.forecast import Forecast
    from epmq_export.pipeline.forecast.inventory import Found
    from epmq_export.verification.verify import Verdict

out, err = Console(highlight=False), Console(stderr=True, highlight=False)
# Without a terminal a stage says where it is this often, in seconds.
QUIET = 10.0
Update = Callable[[str, int, int], None]


class Stages:
    """Runs stages one after the other, shows how far each is, and keeps what each took."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        started = time.monotonic()
        with _bar(name) if err.is_terminal else _lines(name) as update:
            yield update
        self.seconds[name] = round(time.monotonic() - started, 3)
        err.print(f"{name}: {self.seconds[name]:.1f} s", style="dim")


@contextmanager
def _bar(name: str) -> Iterator[Update]:
    columns = (
        SpinnerColumn(),
        TextColumn("[bold]{task.fields[stage]}"),
        BarColumn(16),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("", total=None, stage=name)

        def update(text: str, done: int, total: int) -> None:
            progress.update(bar, description=text, completed=done, total=total or None)

        yield update


@contextmanager
def _lines(name: str) -> Iterator[Update]:
    said = time.monotonic()

    def update(text: str, done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= QUIET:
            said = time.monotonic()
            err.print(f"{name}: {text}" + (f" ({done} of {total})" if total else ""), style="dim")

    yield update


def show_log(verbose: bool) -> None:
    """The project's own log on stderr; other libraries' only where they warn of something grave."""
    handler = (
        RichHandler(console=err, show_time=False, show_path=False, markup=False)
        if err.is_terminal
        else logging.StreamHandler()
    )
    if not err.is_terminal:
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.ERROR, handlers=[handler], force=True)
    for name in ("epmq_export", "converters", "formats"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.WARNING)


def scores_table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """Percent by task; a column for each model, so that many tasks fit a terminal."""
    table = Table(
        title="Accuracy, percent", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("task", no_wrap=True)  # a name has no place to break
    for name in scores:
        table.add_column(name, justify="right")
    tasks = [task for task in next(iter(scores.values())) if task != "average"]
    for task in (*tasks, "average"):
        table.add_row(
            task,
            *(f"{100 * row[task]:.1f}" for row in scores.values()),
            style="bold" if task == "average" else None,
        )
    return table


def _size(file: Mapping[str, Any]) -> str:
    """Of the file that tasks are judged by, and of it and all that lie beside it."""
    beside = sum(other["bytes"] for other in file["others"])
    return f"{file['bytes'] / 1e6:.1f} MB" + (
        f" of {(file['bytes'] + beside) / 1e6:.1f} MB" if beside else ""
    )


def checks_table(files: Sequence[Mapping[str, Any]]) -> Table:
    """A column for each file, a row for each check."""
    table = Table(title="Checks", title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("check")
    for file in files:
        table.add_column(f"{file['format']} in {file['runtime']}")
    rows = {
        name: [_outcome(name, file["checks"][name]) for file in files]
        for name in ("codes", "metadata", "graph", "tasks")
    }
    for name, outcomes in rows.items():
        table.add_row(name, *outcomes)
    table.add_row("size", *map(_size, files))
    return table


def _outcome(name: str, check: Mapping[str, Any] | None) -> Text:
    """One check of one file in a few words."""
    if check is None:
        return Text("not checked: no recipe", "yellow")
    match name:
        case "codes":
            return _mark(
                check["equal"],
                f"{check['tensors']} tensors {'bit-equal' if check['equal'] else 'read, not all equal'}",
            )
        case "metadata":
            return _mark(check["equal"], "equal" if check["equal"] else f"{check['differences']} differ")
        case "graph":
            value = check["value"]
            return _mark(
                check["passed"],
                "no output" if value is None else f"differs {value:.1e}, up to {check['tolerance']:.0e}",
            )
        case _:
            drop = check["worst_drop"]
            return _mark(
                check["passed"],
                "no output"
                if drop is None
                else f"worst drop {100 * max(drop, 0.0):.1f}, up to {100 * check['tolerance']:.1f}",
            )


def _mark(passed: bool, text: str) -> Text:
    return Text(f"✓ {text}".strip(), "green") if passed else Text(f"✗ {text}".strip(), "bold red")


def show_verdict(verdict: "Verdict") -> None:
    if verdict.scores:
        out.print(scores_table(verdict.scores))
    out.print(checks_table(verdict.files))
    for file in verdict.files:
        if "fused" in file["notes"]:
            fused, linears = file["notes"]["fused"], file["notes"]["linears"]
            out.print(
                f"{file['format']}: {file['runtime']} fuses {fused} of {linears} quantised linears",
                style=None if fused == linears else "yellow",
            )
    for sentence in verdict.broken:
        out.print(f"✗ {sentence}", style="red", markup=False)
    out.print(
        "verdict: fail" if verdict.broken else "verdict: pass",
        style="bold red" if verdict.broken else "bold green",
    )


def show_description(description: Description) -> None:
    """Of many layers one row, of long values the beginning; `--json` has the whole."""
    out.print(Text.assemble((description.kind, "bold"), " ", visible(str(description.path))), soft_wrap=True)
    if description.provenance:
        table = _plain_table("Origin", "", "")
        for key, value in description.provenance.items():
            table.add_row(key, Text(origin(value)))
        out.print(table)
    if description.metadata:
        table = _plain_table("Metadata", "key", "value")
        for key, value in description.metadata.items():
            if key.removeprefix("epmq.") not in description.provenance:
                table.add_row(Text(visible(key)), Text(short(value)))
        out.print(table)
    table = _plain_table("Tensors", "name", "×", "type", "shape", "bytes", "bits")
    for row in rows(description.tensors):
        tensor, many = row.tensor, str(row.count) if row.count > 1 else ""
        shape = "×".join(str(size) for size in tensor.shape) or "scalar"
        table.add_row(
            Text(visible(tensor.name)),
            many,
            tensor.type,
            shape,
            f"{row.count * tensor.bytes:,}",
            _bits(tensor.bits_per_weight),
        )
    out.print(table)
    table = _plain_table("Totals", "type", "tensors", "weights", "bytes", "bits")
    for kind, total in {**description.totals, "all": description.total}.items():
        style = "bold" if kind == "all" else None
        table.add_row(
            kind,
            f"{total.tensors:,}",
            f"{total.weights:,}",
            f"{total.bytes:,}",
            _bits(total.bits_per_weight),
            style=style,
        )
    out.print(table)


def _bits(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}"


def _plain_table(title: str, *columns: str) -> Table:
    """Without lines, so that names have the room; texts fold and lose nothing."""
    table = Table(
        title=f"\n{title}",
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        padding=(0, 1, 0, 0),
        show_header=any(columns),
    )
    for column in columns:
        number = column in ("×", "tensors", "weights", "shape", "bytes", "bits")
        table.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=number)
    return table


def show_diagnosis(diagnosis: "Diagnosis") -> None:
    table = _plain_table("Installed", "", "", "")
    for part in diagnosis.parts:
        table.add_row(
            _mark(part.problem is None, part.name), Text(part.found or ""), Text(part.problem or "", "red")
        )
    out.print(table)
    table = _plain_table("Free on disk", "", "", "")
    for place in diagnosis.places:
        table.add_row(place.use, f"{place.free / 1e9:.1f} GB", Text(visible(str(place.path))))
    out.print(table)
    for part in diagnosis.missing:
        out.print(
            Text.assemble(f"\n{part.name}: {part.cost}. To install it:\n    ", (part.install, "bold")),
            soft_wrap=True,
        )


def show_forecast(forecast: "Forecast") -> None:
    """What is here, what will be written, held and computed; what cannot be said, last."""
    _show_found("Models", forecast.models)
    _show_found("Data", forecast.data)
    table = _plain_table("Plan", "", "")
    table.add_row("merge", forecast.merge)
    table.add_row("calibration", forecast.method)
    if forecast.samples is not None:
        samples = forecast.samples
        table.add_row(
            "samples",
            (
                f"{samples.samples:,} of {samples.tasks} tasks, {samples.tokens:.0f} tokens "
                f"each{'' if samples.exact else ' (as asked for)'}"
            ),
        )
        passes = forecast.passes
        table.add_row(
            "passes",
            (
                f"{passes['student']:,} of a batch through a block of the student, {passes['experts']:,} of "
                "the experts"
            ),
        )
    for format, grids in forecast.grids.items():
        counts = Counter(grids.values())
        table.add_row(format, ", ".join(f"{count} linears on {grid}" for grid, count in counts.items()))
    out.print(table)
    if forecast.files:
        table = _plain_table("Files", "name", "bytes", "of which")
        for file in forecast.files:
            table.add_row(
                f"{file.format}/{file.path}",
                f"{file.bytes:,}",
                ", ".join(f"{kind} {size:,}" for kind, size in file.types.items()),
            )
        out.print(table)
    if forecast.memory is not None:
        _show_memory(forecast.memory)
    if forecast.time is not None:
        (least, most), speed = forecast.time.seconds, forecast.time.speed
        again = forecast.time.calibrations
        many = (
            ""
            if again == (1, 1)
            else f", {again[0]} of them"
            if again[0] == again[1]
            else f", {again[0]} to {again[1]} of them"
        )
        out.print(f"\ncalibration{many}: roughly {_duration(least)} to {_duration(most)}", style="bold")
        rests = (
            f"{speed.single / 1e9:.0f} billion operations a second in float32 and "
            f"{speed.double / 1e9:.0f} in float64, measured just now"
        )
        out.print(f"rests on {rests}; on a busy machine it is wrong", soft_wrap=True)
    for note in forecast.notes:
        out.print(f"note: {note}", style="yellow", markup=False, soft_wrap=True)
    for sentence in forecast.unknown:
        out.print(f"not said: {sentence}", markup=False, soft_wrap=True)


def _show_found(title: str, found: Sequence["Found"]) -> None:
    table = _plain_table(title, "", "", "")
    for each in found:
        table.add_row(
            Text(each.role),
            Text(visible(each.name)),
            Text(each.sentence, "green" if each.whole else "yellow"),
        )
    out.print(table)


def _show_memory(memory: "Memory") -> None:
    parts = {
        "weights of a block": memory.weights,
        "merging": memory.merging,
        "statistics": memory.statistics,
        "a forward pass": memory.forward,
        "activations": memory.activations,
        "what is calibrated": memory.shipped,
    }
    shown = ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in parts.items())
    out.print(
        f"\npeak memory: about {memory.peak / 1e9:.2f} GB besides Python and its libraries", style="bold"
    )
    out.print(shown, soft_wrap=True)
    if memory.spilled:
        out.print(
            (
                f"on disk meanwhile: about {memory.spilled / 1e9:.2f} GB of activations that are past "
                "their bound"
            ),
            soft_wrap=True,
        )


def _duration(seconds: float) -> str:
    for size, name in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {name}"
    return "1 second" if seconds < 1.5 else f"{seconds:.0f} seconds"
