"""What a group of weights can hold in a file: the grids by name."""

from epmq_export.grids.grid import Grid, Part, Stored
from epmq_export.grids.scaled import Scaled

__all__ = ["GRIDS", "Grid", "Part", "Stored"]

# A scale may send the largest weight of a group to any of these multiples of a step: to each code that may be the group's largest (so
# that weights that lie on the grid are found again), or past the last code, which clips it for finer steps elsewhere. Both signs where
# the two ends of a range are not alike. With 8 bits clipping hardly pays; which of the last codes the largest weight gets does.
_PAST = (7.35, 7.7, 8.0, 8.35, 8.7, 9.1, 9.6, 10.2, 11.0, 12.0, 13.5, 16.0)
_Q4_0 = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, *_PAST, *(-reach for reach in _PAST))
_Q8_0 = (*(float(code) for code in range(114, 128)), 127.5, 128.5)

GRIDS: dict[str, Grid] = {
    grid.name: grid
    for grid in (
        Scaled("Q4_0", 32, 32, -8, tuple(range(-8, 8)), reaches=_Q4_0),
        Scaled("Q8_0", 32, 32, -127, tuple(range(-127, 128)), reaches=_Q8_0),
    )
}
