"""The plot of what the weights take: bytes by grid and type of number."""

from epmq_export.publishing.plots.canvas import (
    FONT,
    Plot,
    axes_of,
    colour,
    drawing,
    margin_of,
    series,
    shortened,
    svg_of,
)
from epmq_export.publishing.report import StoredTensor
from epmq_export.publishing.tables import totals_of
from epmq_export.publishing.words import joined, several, size

_ROW = 24.0


def draw_storage(tensors: list[StoredTensor], key: str) -> Plot | None:
    """Return the plot, or None where there are no tensors."""
    totals = totals_of(tensors)
    whole = sum(taken for _, _, taken in totals.values())
    if not whole:
        return None
    with drawing():
        labels = [shortened(name) for name in totals]
        axes = axes_of(_ROW * len(totals), margin_of(labels), bottom=8, right=118)
        most = max(taken for _, _, taken in totals.values())
        for place, (count, _, taken) in enumerate(totals.values()):
            axes.barh(place, taken / most, height=0.6, color=series(4))
            axes.annotate(
                f"{size(taken)}, {several(count, 'tensor')}",
                (taken / most, place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color=colour("ink"),
                fontsize=FONT,
            )
        axes.set_ylim(len(totals) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.set_yticks(range(len(totals)), labels)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        said = joined([f"{name} {size(taken)}" for name, (_, _, taken) in totals.items()])
        return Plot(
            svg_of(axes, key, "Bytes by grid", f"{said}, {size(whole)} in all."),
            f"What the weights take, by the grid or type that holds them: {size(whole)} in all, before "
            "what a format adds.",
        )
