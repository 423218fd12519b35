"""ggml's types as this project writes them, with a record for each.

Another grid takes one record in `epmq_export/grids/__init__.py` and one here, and no other code: the number
of a type, the values of its blocks and their bytes are those of `epmq_export/tensors/ggml_types.py`, and
runtimes take theirs from there too.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from gguf import LlamaFileType

from epmq_export.grids import Grid
from epmq_export.grids.layout import Storage
from epmq_export.tensors.ggml_types import F16, F32, GGML_TYPES, GgmlType
from formats.gguf.layout import Bits, Field, Half, Pairs, Shares, Signed

FILE_TYPES: Mapping[str, int] = {
    **{re.sub("^(MOSTLY|ALL)_", "", kind.name): int(kind) for kind in LlamaFileType},
    "Q2_0": 41,  # gguf 0.19.0 does not have it.
}
"""The values of `general.file_type`, by what llama.cpp calls such files."""


@dataclass(frozen=True)
class Written:
    """The properties of a type that its name does not tell."""

    file_type: str
    """What llama.cpp calls a file most of whose matrices have this type."""

    fields: Sequence[Field] = ()
    """The fields of a block, in order, as ggml's block_* structures have them. Plain numbers have none."""


TYPES: Mapping[str, Written] = {
    "F32": Written("F32"),
    "F16": Written("F16"),
    "Q4_0": Written("Q4_0", (Half("scales"), Bits("codes", size=16, bits=4, run=16))),
    "Q4_1": Written("Q4_1", (Half("scales"), Half("mins"), Bits("codes", size=16, bits=4, run=16))),
    "IQ4_NL": Written("IQ4_NL", (Half("scales"), Bits("codes", size=16, bits=4, run=16))),
    "Q5_0": Written(
        "Q5_0",
        (
            Half("scales"),
            Bits("codes", size=4, bits=1, run=1, shift=4),
            Bits("codes", size=16, bits=4, run=16),
        ),
    ),
    "Q8_0": Written("Q8_0", (Half("scales"), Signed("codes", 32))),
    "Q2_0": Written("Q2_0", (Half("scales"), Bits("codes", size=16, bits=2, run=1))),
    "Q2_K": Written(
        "Q2_K",
        (
            Pairs("subscales", "submins", 16),
            Bits("codes", size=64, bits=2, run=32),
            Half("scales"),
            Half("mins"),
        ),
    ),
    "Q3_K": Written(
        "Q3_K_S",
        (
            Bits("codes", size=32, bits=1, run=32, shift=2),
            Bits("codes", size=64, bits=2, run=32),
            Bits("subscales", size=8, bits=4, run=8),
            Bits("subscales", size=4, bits=2, run=4, shift=4),
            Half("scales"),
        ),
    ),
    "Q4_K": Written(
        "Q4_K_S",
        (
            Half("scales"),
            Half("mins"),
            Shares("subscales", "submins"),
            Bits("codes", size=128, bits=4, run=32),
        ),
    ),
    "Q5_K": Written(
        "Q5_K_S",
        (
            Half("scales"),
            Half("mins"),
            Shares("subscales", "submins"),
            Bits("codes", size=32, bits=1, run=32, shift=4),
            Bits("codes", size=128, bits=4, run=32),
        ),
    ),
    "Q6_K": Written(
        "Q6_K",
        (
            Bits("codes", size=128, bits=4, run=64),
            Bits("codes", size=64, bits=2, run=32, shift=4),
            Signed("subscales", 16),
            Half("scales"),
        ),
    ),
}
PLAIN: Mapping[GgmlType, torch.dtype] = {F32: torch.float32, F16: torch.float16}
BLOCKS = tuple(name for name, kind in TYPES.items() if kind.fields)
"""The types of tensors on a grid. The `file_type` of a grid is one of these."""


def kind_of(storage: Storage, shape: Sequence[int]) -> GgmlType:
    """Return the type in the file of a tensor that the packed checkpoint stores in this way.

    A vector is F32, as llama.cpp needs it. A matrix is F16 where it is packed in half precision.
    """
    if isinstance(storage, Grid):
        return GGML_TYPES[storage.file_type]
    return F16 if storage == torch.float16 and len(shape) > 1 else F32
