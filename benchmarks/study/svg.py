"""Figures as SVG: the same bytes again from the same results."""

from pathlib import Path
from typing import Any


def pyplot() -> Any:  # noqa: ANN401
    """Return matplotlib's pyplot, set to draw SVG with text as text and names that do not change."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "epmq"
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as found  # after the choice of how to draw

    return found


def save(figure: Any, folder: Path, name: str) -> None:  # noqa: ANN401
    """Write a figure as NAME.svg into a folder, and close it."""
    figure.tight_layout()
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    pyplot().close(figure)
