"""The size of an ONNX file before it is written, from names, shapes and types alone. The graph is estimated
from those of transformers.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from math import ceil, prod

import torch

from epmq_export.grids import Grid
from epmq_export.models.format import PlannedTensor
from epmq_export.models.specs import OnnxSpec
from formats.onnx import external as onnx_external
from formats.onnx.parts import PARTS, code_kind
from formats.onnx.weights import BITS

# The bytes of nodes, names and dims for each tensor of the model: 346 to 394 in the graphs of BERT and of
# CLIP's towers (opset 21).
GRAPH = 375
# The bytes of metadata besides the provenance.
_METADATA = 200
# The bytes that an initializer takes to name the place of its data.
_PLACE = 75


def onnx_size(
    file: str,
    tensors: Mapping[str, PlannedTensor],
    spec: OnnxSpec,
    rows: Iterable[str],
    origin: Mapping[str, str],
    limit: int,
) -> dict[str, dict[str, int]]:
    """Return the bytes by type of one model, by its file, and those of the file of its weights where they
    take more than `limit`. `rows` are the tensors that are gathered, whose codes take a byte each.
    """
    sizes: Counter[str] = Counter()
    grids: dict[str, str] = {}
    parts: dict[str, list[int]] = {}
    held = [name for name in spec.tensors() if name in tensors]
    for name in held:
        tensor = tensors[name]
        if isinstance(tensor.storage, Grid):
            grids[name] = tensor.storage.name
            found = _on_grid(tensor.shape, tensor.storage, name in set(rows))
            parts[name] = [*found.values()]
            sizes[tensor.storage.name] += sum(found.values())
        else:
            # Half precision stays in matrices, which a Gather or a Transpose reads. The weight of a
            # convolution becomes float32.
            half = tensor.storage == torch.float16 and len(tensor.shape) == 2
            parts[name] = [prod(tensor.shape) * (2 if half else 4)]
            sizes["F16" if half else "F32"] += sum(parts[name])
    listed = sum(len(name) + len(grid) + 8 for name, grid in grids.items())
    rest = GRAPH * len(held) + _METADATA + sum(map(len, origin.values())) + listed
    if (total := sum(sizes.values())) <= limit:
        return {file: {**sizes, "rest": rest}}
    stored = [size for name in sorted(parts) for size in parts[name]]  # This is the initializers' order.
    padding = onnx_external.taken(stored) - total
    return {
        file: {"rest": rest + _PLACE * len(stored)},
        f"{file}{onnx_external.ENDING}": {**sizes, "rest": padding},
    }


def _on_grid(shape: tuple[int, ...], grid: Grid, gathered: bool) -> dict[str, int]:
    """Return the bytes of codes, of float32 scales by group, and of zero points of the codes' type where the
    grid has any.
    """
    count = prod(shape)
    bits = BITS[code_kind(grid, shape, gathered)]
    sizes = {
        "codes": ceil(count * bits / 8),
        "scales": 4 * (count // grid.group),
        "zeros": ceil(count // grid.group * bits / 8),
    }
    return {part: sizes[part] for part in PARTS[grid.name]}
