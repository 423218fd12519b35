"""The tables that `epmq doctor` shows."""

from typing import TYPE_CHECKING

from rich.text import Text

from epmq_export.console.terminal import mark, out, plain_table, show_table, visible

if TYPE_CHECKING:  # These import torch and numpy, which the commands that need neither shall not wait for.
    from epmq_export.doctor import Diagnosis


def show_diagnosis(diagnosis: "Diagnosis") -> None:
    """Show which parts work, the room on the disks, how to install what is missing, and whether that is in
    the way of the main job.
    """
    table = plain_table("Installed", "", "", "")
    for part in diagnosis.parts:
        if part.problem is None or part.needed:
            sign, style = mark(part.problem is None, part.name), "red"
        else:
            sign, style = Text(f"- {part.name}", "yellow"), "yellow"
        table.add_row(sign, Text(part.found or ""), Text(part.problem or "", style))
    show_table(table)
    table = plain_table("Free on disk", "", "", "")
    for place in diagnosis.places:
        table.add_row(place.use, f"{place.free / 1e9:.1f} GB", Text(visible(str(place.path))))
    show_table(table)
    for part in diagnosis.missing:
        out.print(
            Text.assemble(f"\n{part.name}: {part.cost}. To install it:\n    ", (part.install, "bold")),
            soft_wrap=True,
        )
    if not diagnosis.lacking:
        also = ", and only what is asked for by name is missing" if diagnosis.missing else ""
        out.print(f"\nready: all that the main job needs is here{also}", style="bold green", soft_wrap=True)
