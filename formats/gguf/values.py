"""The values of a tensor in the file and in the checkpoint: rows may have another order, or the first of them
may be left out, and plain numbers may have something added or be multiplied.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from epmq_export.models.specs import GgufSpec
from epmq_export.tensors.packed import PackedTensor


def in_file(tensor: PackedTensor | Tensor, name: str, spec: GgufSpec) -> PackedTensor | Tensor:
    """Return a tensor of the checkpoint, by its canonical name, as the file has it."""
    if name in spec.orders:
        return _reordered(tensor, spec.orders[name])
    if isinstance(tensor, PackedTensor):
        return tensor
    if name in spec.begins:
        return tensor[spec.begins[name] :]
    if name in spec.factors:
        return tensor.float() * spec.factors[name]
    return tensor.float() + spec.offsets[name] if name in spec.offsets else tensor


def not_restored(spec: GgufSpec) -> frozenset[str]:
    """Return the canonical names of the tensors that `in_checkpoint` cannot give back bit for bit."""
    return frozenset({*spec.factors, *spec.begins})


def in_checkpoint(
    tensor: PackedTensor | Tensor, raw: NDArray[np.uint8], name: str, spec: GgufSpec
) -> tuple[PackedTensor | Tensor, NDArray[np.uint8]]:
    """Return a tensor of the file and its bytes as the checkpoint has them, but for one that has been
    multiplied or has lost rows, which does not come back. A tensor of another shape than the family's is left
    as it is, because the checks report it.
    """
    order = spec.orders.get(name)
    shape = tensor.codes.shape if isinstance(tensor, PackedTensor) else tensor.shape
    if order is not None and shape[0] == len(order):
        back = order.argsort()
        return _reordered(tensor, back), raw.reshape(len(order), -1)[back.numpy()].reshape(-1)
    if name in spec.offsets and isinstance(tensor, Tensor):
        return tensor.float() - spec.offsets[name], raw
    return tensor, raw


def _reordered(tensor: PackedTensor | Tensor, order: Tensor) -> PackedTensor | Tensor:
    if isinstance(tensor, PackedTensor):
        return PackedTensor(
            tensor.grid,
            tensor.codes[order],
            {part: numbers[order] for part, numbers in tensor.stored.items()},
        )
    return tensor[order]
