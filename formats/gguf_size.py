"""How large a GGUF file will be, from names, shapes and types alone."""

from collections import Counter
from collections.abc import Mapping
from math import prod

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from epmq_export.family import GgufSpec
from epmq_export.format import PlannedTensor
from epmq_export.grids import Grid
from formats.gguf_file import ALIGNMENT

# Magic, version, and the numbers of tensors and keys.
_HEADER = 24
# The keys that every file has besides the family's and those of its origin: architecture, type, name, file type, versions, alignment.
_COMMON = 300


def gguf_size(tensors: Mapping[str, PlannedTensor], spec: GgufSpec, origin: Mapping[str, str]) -> dict[str, int]:
    """Bytes by type, padding apart: data of n weights take n / block * bytes of a block, and each tensor begins at a multiple of 32."""
    sizes: Counter[str] = Counter()
    rest = _HEADER + _COMMON + sum(_key(name, value) for name, value in {**spec.metadata, **origin}.items())
    padding = 0
    planned = {there: tensors[here] for here, there in spec.names.items() if here in tensors}
    planned |= {name: PlannedTensor(tuple(tensor.shape), torch.float32) for name, tensor in spec.constants.items()}
    for there, tensor in planned.items():
        kind = _kind(tensor)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        size = prod(tensor.shape) // block * block_bytes
        sizes[kind.name] += size
        padding += -size % ALIGNMENT
        rest += 8 + len(there.encode()) + 4 + 8 * len(tensor.shape) + 4 + 8
    return {**sizes, "rest": rest + -rest % ALIGNMENT + padding}


def _kind(tensor: PlannedTensor) -> GGMLQuantizationType:
    """As `formats.gguf` has it: a vector is F32."""
    if isinstance(tensor.storage, Grid):
        return GGMLQuantizationType[tensor.storage.file_type]
    half = tensor.storage == torch.float16 and len(tensor.shape) > 1
    return GGMLQuantizationType.F16 if half else GGMLQuantizationType.F32


def _key(name: str, value: object) -> int:
    """A key, the type of its value, the value."""
    return 8 + len(name.encode()) + 4 + _value(value)


def _value(value: object) -> int:
    match value:
        case str():
            return 8 + len(value.encode())
        case bool():
            return 1
        case bytes():
            return 12 + len(value)
        case list():
            return 12 + sum(_value(item) for item in value)
        case _:
            return 4
