"""How large a GGUF file will be, from names, shapes and types alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from epmq_export.errors import InputError
from epmq_export.grids import Grid
from epmq_export.models.format import PlannedTensor
from epmq_export.models.specs import GgufSpec
from epmq_export.tensors.gguf_file import ALIGNMENT
from epmq_export.tensors.gguf_splits import KEYS, MOST, split_name
from epmq_export.tensors.shards import groups

# Magic, version, and the numbers of tensors and keys.
_HEADER = 24
# The keys that every file has besides the family's and those of its origin: architecture, type, name, file
# type, versions, alignment.
_COMMON = 300


def data_bytes(kind: GGMLQuantizationType, shape: Sequence[int]) -> int:
    """n weights take n / block * bytes of a block."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    return prod(shape) // block * block_bytes


def parted(file: str, sizes: Mapping[str, int], limit: int | None) -> dict[str, list[str]]:
    """Tensors by file, in their order: a file's take at most `limit` bytes, unless one alone is larger."""
    parts = [[*sizes]] if limit is None else groups(sizes, limit)
    if len(parts) > MOST:
        raise InputError(f"{file}: export.split_size asks for {len(parts)} files, expected at most {MOST}")
    return {
        file if len(parts) == 1 else split_name(Path(file).stem, number, len(parts)): names
        for number, names in enumerate(parts)
    }


def gguf_size(
    file: str,
    tensors: Mapping[str, PlannedTensor],
    spec: GgufSpec,
    origin: Mapping[str, str],
    limit: int | None,
) -> dict[str, dict[str, int]]:
    """Bytes by type of each file, padding apart: each tensor begins at a multiple of 32."""
    planned = {there: tensors[here] for here, there in spec.names.items() if here in tensors}
    planned |= {
        name: PlannedTensor(tuple(tensor.shape), torch.float32) for name, tensor in spec.constants.items()
    }
    kinds = {name: _kind(tensor) for name, tensor in planned.items()}
    parts = parted(
        file, {name: data_bytes(kinds[name], tensor.shape) for name, tensor in planned.items()}, limit
    )
    found = {}
    for number, (place, names) in enumerate(parts.items()):
        keys: dict[str, object] = {} if number else {**spec.metadata, **origin}
        keys |= {} if len(parts) == 1 else dict.fromkeys(KEYS, 0)
        rest = _HEADER + (0 if number else _COMMON) + sum(_key(key, value) for key, value in keys.items())
        sizes: Counter[str] = Counter()
        padding = 0
        for name in names:
            size = data_bytes(kinds[name], planned[name].shape)
            sizes[kinds[name].name] += size
            padding += -size % ALIGNMENT
            rest += 8 + len(name.encode()) + 4 + 8 * len(planned[name].shape) + 4 + 8
        found[place] = {**sizes, "rest": rest + -rest % ALIGNMENT + padding}
    return found


def _kind(tensor: PlannedTensor) -> GGMLQuantizationType:
    """As `formats.gguf.format` has it: a vector is F32."""
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
