"""The tables that `epmq doctor` shows."""

from typing import TYPE_CHECKING

from rich.text import Text

from epmq_export.console.terminal import mark, out, plain_table, show_table, visible

if TYPE_CHECKING:  # These import torch and numpy, which the commands that need neither shall not wait for.
    from epmq_export.doctor import Diagnosis


def show_diagnosis(diagnosis: "Diagnosis") -> None:
    """Show which parts work, the room on the disks, and how to install what is missing."""
    table = plain_table("Installed", "", "", "")
    for part in diagnosis.parts:
        table.add_row(
            mark(part.problem is None, part.name), Text(part.found or ""), Text(part.problem or "", "red")
        )
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
