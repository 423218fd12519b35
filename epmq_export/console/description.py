"""The tables that `epmq inspect` shows of a model file."""

from rich.text import Text

from epmq_export.console.listing import origin, rows, short
from epmq_export.console.terminal import out, plain_table, sign, visible
from epmq_export.tensors.description import Description


def show_description(description: Description) -> None:
    """Show a model file: equal tensors of many layers in one row, and of long values the beginning. `--json`
    shows everything whole.
    """
    out.print(Text.assemble((description.kind, "bold"), " ", visible(str(description.path))), soft_wrap=True)
    if description.provenance:
        table = plain_table("Origin", "", "")
        for key, value in description.provenance.items():
            table.add_row(key, Text(origin(value)))
        out.print(table)
    if description.metadata:
        table = plain_table("Metadata", "key", "value")
        for key, value in description.metadata.items():
            if key.removeprefix("epmq.") not in description.provenance:
                table.add_row(Text(visible(key)), Text(short(value)))
        out.print(table)
    table = plain_table("Tensors", "name", "×", "type", "shape", "bytes", "bits")
    for row in rows(description.tensors):
        tensor, many = row.tensor, str(row.count) if row.count > 1 else ""
        shape = sign("×").join(str(size) for size in tensor.shape) or "scalar"
        table.add_row(
            Text(visible(tensor.name)),
            many,
            tensor.type,
            shape,
            f"{row.count * tensor.bytes:,}",
            _bits(tensor.bits_per_weight),
        )
    out.print(table)
    table = plain_table("Totals", "type", "tensors", "weights", "bytes", "bits")
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
