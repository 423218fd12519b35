"""The points of a calibration at which the loss of each layer is told.

The page's tables have them, too, and tables are made without matplotlib.
"""

from epmq_export.publishing.report import Layer

STAGES = (
    ("loss_merged", "merged, unrounded", "o", (0, (1, 1.5)), 6),
    ("loss_before", "solved, before rounding", "^", (0, (4, 2)), 0),
    ("loss_rounded", "first rounding", "D", (0, (4, 1, 1, 1)), 5),
    ("loss_after", "as shipped", "s", "solid", 4),
)
"""Attribute, name, shape, line and colour of each point of the calibration."""


def median(layers: list[Layer], attribute: str) -> float:
    """Return the median of one of the losses."""
    values = sorted(getattr(layer, attribute) for layer in layers)
    middle = len(values) // 2
    return float(values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2)
