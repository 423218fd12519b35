"""The tables that `epmq run --dry-run` shows."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from epmq_export.console.terminal import out, plain_table, show_line, show_table, visible

if TYPE_CHECKING:  # These import torch and numpy, which the commands that need neither shall not wait for.
    from epmq_export.pipeline.forecast.around import AroundForecast
    from epmq_export.pipeline.forecast.costs import Memory
    from epmq_export.pipeline.forecast.inventory import Found
    from epmq_export.pipeline.forecast.record import FileForecast, Forecast, Time
    from epmq_export.pipeline.forecast.verifying import VerifyForecast


def show_forecast(forecast: "Forecast") -> None:
    """Show what is here and what will be written, held in memory and computed. What cannot be said comes
    last.
    """
    _show_found("Models", forecast.models)
    _show_found("Data", forecast.data)
    _show_plan(forecast)
    if forecast.files:
        _show_files(forecast.files)
    if forecast.memory is not None:
        _show_memory(forecast.memory)
    if forecast.verify is not None:
        _show_verify(forecast.verify)
    if forecast.time is not None:
        _show_time(forecast, forecast.time)
    for note in forecast.notes:
        show_line(f"note: {note}", "yellow", out)
    for sentence in forecast.unknown:
        show_line(f"not said: {sentence}", console=out)


def _show_plan(forecast: "Forecast") -> None:
    table = plain_table("Plan", "", "")
    table.add_row("merge", forecast.merge)
    table.add_row("calibration", forecast.method)
    if forecast.task_vectors is not None:
        table.add_row("task vectors", Text(visible(forecast.task_vectors)))
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
    show_table(table)


def _show_files(files: Sequence["FileForecast"]) -> None:
    table = plain_table("Files", "name", "bytes", "of which")
    for file in files:
        table.add_row(
            f"{file.format}/{file.path}",
            f"{file.bytes:,}",
            ", ".join(f"{kind} {size:,}" for kind, size in file.types.items()),
        )
    show_table(table)


def _show_time(forecast: "Forecast", time: "Time") -> None:
    speed, again = time.speed, time.calibrations
    many = (
        ""
        if again == (1, 1)
        else f", {again[0]} of them"
        if again[0] == again[1]
        else f", {again[0]} to {again[1]} of them"
    )
    out.print(f"\ncalibration{many}: roughly {duration_range(time.seconds)}", style="bold")
    if forecast.refine is not None:
        out.print(
            f"refine, {forecast.refine.steps} steps: roughly {duration_range(forecast.refine.seconds)}, "
            f"with about {forecast.refine.memory / 1e9:.2f} GB in memory",
            style="bold",
            soft_wrap=True,
        )
    if forecast.around is not None:
        _show_around(forecast.around)
    if forecast.seconds is not None:
        out.print(f"the whole run: roughly {duration_range(forecast.seconds)}", style="bold")
    rests = (
        f"{speed.single / 1e9:.0f} billion operations a second in float32 and "
        f"{speed.double / 1e9:.0f} in float64, measured just now"
    )
    out.print(f"rests on {rests}; on a busy machine it is wrong", soft_wrap=True)


def _show_found(title: str, found: Sequence["Found"]) -> None:
    table = plain_table(title, "", "", "")
    for each in found:
        table.add_row(
            Text(visible(each.role)),
            Text(visible(each.name)),
            Text(each.sentence, "green" if each.whole else "yellow"),
        )
    show_table(table)


def _show_memory(memory: "Memory") -> None:
    parts = {
        "weights of a block": memory.weights,
        "merging": memory.merging,
        "statistics": memory.statistics,
        "a forward pass": memory.forward,
        "activations": memory.activations,
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


def _show_verify(verify: "VerifyForecast") -> None:
    held = f", of which {verify.runtime / 1e6:,.0f} MB is the model in its runtime" if verify.runtime else ""
    out.print(f"verify: about {verify.peak / 1e9:.2f} GB{held}", style="bold", soft_wrap=True)


def _show_around(around: "AroundForecast") -> None:
    stages = {"merge": around.merge, "write": around.write, "score": around.score, "verify": around.verify}
    shown = (f"{name} {duration_range(seconds)}" for name, seconds in stages.items() if seconds is not None)
    out.print(", ".join(shown), soft_wrap=True)


def duration_range(seconds: tuple[float, float]) -> str:
    """Return the least and the most time, as one where they read alike."""
    return " to ".join(dict.fromkeys(map(_duration, seconds)))


def _duration(seconds: float) -> str:
    for size, name in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {name}"
    return "1 second" if seconds < 1.5 else f"{seconds:.0f} seconds"
