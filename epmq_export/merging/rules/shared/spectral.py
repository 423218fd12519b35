"""Parts that the rules that look at a linear's singular values share."""

from collections.abc import Callable

import torch
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.merging.inputs import Inputs
from epmq_export.merging.names import is_table
from epmq_export.merging.rule import Merge


def by_linear(inputs: Inputs, merge_linear: Callable[[str, Tensor], Tensor]) -> Merge:
    """Return a merge that is base + lambda * `merge_linear(tensor, base)` for the weights of linears, and
    base + lambda * the mean task vector for all other tensors.
    """

    def merge(tensor: str) -> Tensor:
        base = inputs.base(tensor)
        linear = base.ndim == 2 and base.numel() > 0 and not is_table(tensor)
        vector = (
            merge_linear(tensor, base) if linear else total(inputs, tensor, base).div_(len(inputs.experts))
        )
        return base.add_(vector, alpha=inputs.number("lambda", tensor))

    return merge


def total(inputs: Inputs, tensor: str, base: Tensor) -> Tensor:
    """Return the sum of the task vectors, float32."""
    result = torch.zeros_like(base)
    for index in range(len(inputs.experts)):
        result.add_(inputs.task_vector(index, tensor, base))
    return result


def triplets(
    tensor: str, matrix: Tensor, most: int | None = None, size: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return U [out, k], s [k] falling and V [in, k]: the singular triplets that float32 tells from 0, at
    most `most` of them.

    Triplets with a value below eps * max(out, in) * `size` are left out (`size` is by default the Frobenius
    norm of the matrix). Their vectors are any basis that the library happens to return, and a result must not
    depend on it. Raises InputError where the library finds none.
    """
    try:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise InputError(
            f"{tensor}: the singular values of its task vectors cannot be computed ({error})"
        ) from None
    smallest = (
        torch.finfo(matrix.dtype).eps * max(matrix.shape) * float(matrix.norm() if size is None else size)
    )
    count = int((s > smallest).sum()) if most is None else min(most, int((s > smallest).sum()))
    # These are copies, because a view would keep the whole in memory.
    return u[:, :count].clone(), s[:count].clone(), vh[:count].T.clone()


def polar(tensor: str, matrix: Tensor) -> Tensor:
    """Return the orthogonal factor of a polar decomposition, U V^T. Where the matrix is singular this is the
    part of it that is unique.
    """
    u, _, v = triplets(tensor, matrix)
    return u @ v.T
