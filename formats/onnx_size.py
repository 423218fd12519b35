"""How large an ONNX file will be, from names, shapes and types alone; the graph by what graphs of transformers take."""

from collections import Counter
from collections.abc import Iterable, Mapping
from math import ceil, prod

import torch
from torch import Tensor

from epmq_export.family import OnnxSpec
from epmq_export.format import PlannedTensor
from epmq_export.grids import Grid
from formats.onnx_graph import KINDS, PARTS
from formats.onnx_weights import BITS

# Nodes, names and dims, for each tensor of the model: 363 to 411 bytes in the graphs of BERT and of CLIP's towers (opset 21).
GRAPH = 375
# What metadata takes besides the provenance.
_METADATA = 200


class _Shapes:
    """Planned tensors as a source on the meta device."""

    def __init__(self, tensors: Mapping[str, PlannedTensor]) -> None:
        self._tensors = tensors

    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def load(self, name: str) -> Tensor:
        return torch.empty(self._tensors[name].shape, device="meta")


def onnx_size(tensors: Mapping[str, PlannedTensor], spec: OnnxSpec, rows: Iterable[str], origin: Mapping[str, str]) -> dict[str, int]:
    """Bytes by type of one model. `rows` are the tensors that are gathered, whose codes take a byte each."""
    sizes: Counter[str] = Counter()
    grids: dict[str, str] = {}
    held = _held(tensors, spec)
    for name in held:
        tensor = tensors[name]
        if isinstance(tensor.storage, Grid):
            grids[name] = tensor.storage.name
            sizes[tensor.storage.name] += _on_grid(tensor.shape, tensor.storage, name in set(rows))
        else:
            # Half precision stays where a Gather or a Transpose reads it: matrices; a convolution's is widened.
            half = tensor.storage == torch.float16 and len(tensor.shape) == 2
            sizes["F16" if half else "F32"] += prod(tensor.shape) * (2 if half else 4)
    listed = sum(len(name) + len(grid) + 8 for name, grid in grids.items())
    return {**sizes, "rest": GRAPH * len(held) + _METADATA + sum(map(len, origin.values())) + listed}


def _held(tensors: Mapping[str, PlannedTensor], spec: OnnxSpec) -> list[str]:
    """The tensors that the model holds: those whose names its parameters end in."""
    module = spec.build(_Shapes(tensors))
    found = []
    for parameter in module.state_dict():
        fitting = [name for name in tensors if f".{parameter}".endswith(f".{name}")]
        if fitting:
            found.append(max(fitting, key=len))
    return found


def _on_grid(shape: tuple[int, ...], grid: Grid, gathered: bool) -> int:
    """Codes, float32 scales by group, and zero points of the codes' type where the grid has any."""
    count = prod(shape)
    bits = BITS[KINDS[grid.name][gathered]]
    zeros = ceil(count // grid.group * bits / 8) if "zeros" in PARTS[grid.name] else 0
    return ceil(count * bits / 8) + 4 * (count // grid.group) + zeros
