"""The grids by name: the values that a group of weights can have in a file.

Another grid takes a record here and, to be written in GGUF, one in `formats/gguf/types.py`. Everything else
uses these two tables.
"""

from epmq_export.grids.grid import Grid, Part, Stored
from epmq_export.grids.k_quants import ScaledK, ShiftedK
from epmq_export.grids.scaled import Scaled
from epmq_export.grids.shifted import Shifted
from epmq_export.grids.zeroed import Zeroed

__all__ = ["BUDGET", "BY_NAME_ONLY", "FALLBACK", "GRIDS", "Grid", "Part", "Stored"]

# The candidates that the search for a scale tries: the multiple of a step at which the largest weight of a
# group stands. Some are codes, so that weights that already lie on the grid are found again. Others are past
# the last code: they clip the largest weight and give finer steps to the rest. A range whose two ends differ
# is tried with both signs. With 8 bits clipping hardly pays, but the choice among the last codes does.
_PAST = (7.35, 7.7, 8.0, 8.35, 8.7, 9.1, 9.6, 10.2, 11.0, 12.0, 13.5, 16.0)
_Q4_0 = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, *_PAST, *(-reach for reach in _PAST))
_Q5_0 = tuple(
    sign * reach for reach in (13.0, 14.0, 15.0, 15.5, 16.0, 16.5, 17.0, 17.7, 18.5, 20.0) for sign in (1, -1)
)
_Q8_0 = (*(float(code) for code in range(114, 128)), 127.5, 128.5)
# llama.cpp's table for 4 bits: closer together near 0, where most weights are.
_IQ4_NL = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_TABLE = tuple(
    sign * reach
    for reach in (104.0, 113.0, 120.0, 127.0, 136.0, 148.0, 165.0, 190.0, 230.0)
    for sign in (1, -1)
)
_Q2_0 = tuple(sign * reach for reach in (1.0, 1.5, 2.0, 2.2, 2.5, 2.8, 3.2, 3.7) for sign in (1, -1))
_Q3_K = tuple(sign * reach for reach in (3.0, 3.5, 3.8, 4.0, 4.3, 4.7, 5.2, 6.0) for sign in (1, -1))
_Q6_K = tuple(
    sign * reach for reach in (29.0, 30.0, 31.0, 31.5, 32.0, 32.5, 33.5, 35.0, 37.0) for sign in (1, -1)
)

GRIDS: dict[str, Grid] = {
    grid.name: grid
    for grid in (
        Scaled("Q2_0", group=64, subgroup=64, lowest=-1, levels=(-1, 0, 1, 2), reaches=_Q2_0),
        ShiftedK("Q2_K", group=256, subgroup=16, lowest=0, levels=tuple(range(4)), share_bits=4),
        ScaledK(
            "Q3_K",
            group=256,
            subgroup=16,
            lowest=-4,
            levels=tuple(range(-4, 4)),
            share_bits=6,
            reaches=_Q3_K,
        ),
        Scaled("Q4_0", group=32, subgroup=32, lowest=-8, levels=tuple(range(-8, 8)), reaches=_Q4_0),
        Shifted("Q4_1", group=32, subgroup=32, lowest=0, levels=tuple(range(16))),
        Zeroed("Q4_1Z", group=32, subgroup=32, lowest=0, levels=tuple(range(16))),
        Scaled("IQ4_NL", group=32, subgroup=32, lowest=0, levels=_IQ4_NL, reaches=_TABLE),
        ShiftedK("Q4_K", group=256, subgroup=32, lowest=0, levels=tuple(range(16)), share_bits=6),
        Scaled("Q5_0", group=32, subgroup=32, lowest=-16, levels=tuple(range(-16, 16)), reaches=_Q5_0),
        ShiftedK("Q5_K", group=256, subgroup=32, lowest=0, levels=tuple(range(32)), share_bits=6),
        ScaledK(
            "Q6_K",
            group=256,
            subgroup=16,
            lowest=-32,
            levels=tuple(range(-32, 32)),
            share_bits=8,
            reaches=_Q6_K,
        ),
        Scaled("Q8_0", group=32, subgroup=32, lowest=-127, levels=tuple(range(-127, 128)), reaches=_Q8_0),
    )
}

# The grid that a tensor takes where its number of inputs is no multiple of the asked grid's group. IQ4_NL is
# the best grid with groups of 32 that takes no more than 4.5 bits a weight; for more bits there is Q8_0.
# llama.cpp does nearly the same. What stands in for Q2_0 is one that every format holds, too.
FALLBACK = {
    "Q2_0": "Q4_0",
    "Q2_K": "IQ4_NL",
    "Q3_K": "IQ4_NL",
    "Q4_K": "IQ4_NL",
    "Q5_K": "Q8_0",
    "Q6_K": "Q8_0",
}


# The grids that a budget of bits chooses from in GGUF: the best of their size. Their fallbacks serve tensors
# whose number of inputs a group of 256 does not divide.
BUDGET = ("Q2_K", "Q3_K", "IQ4_NL", "Q4_K", "Q4_1", "Q5_K", "Q6_K", "Q8_0")

# The grids that a budget never chooses, in any format: files with them need newer runtimes than others do, so
# that they are for those who ask for them by name.
BY_NAME_ONLY = frozenset({"Q2_0"})
