"""Parts that the rules that look at a linear's singular values share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.merging.inputs import Inputs
from epmq_export.merging.names import is_table
from epmq_export.merging.rule import Merge
from epmq_export.merging.rules.shared.decompositions import Triplets, leading, of_product, orthogonal
from epmq_export.merging.rules.shared.lengths import measured
from epmq_export.tensors.low_rank import LowRank, stacked


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


def matrix(inputs: Inputs, index: int, tensor: str, base: Tensor) -> Tensor | LowRank:
    """Return a task vector, as factors where the expert is an adapter on the base."""
    factors = inputs.low_rank(index, tensor, base)
    return inputs.task_vector(index, tensor, base) if factors is None else factors


def factors_of_all(inputs: Inputs, tensor: str, base: Tensor) -> list[LowRank] | None:
    """Return all task vectors as factors, where they are known and their sum is of no more than half the
    rank that its shape allows; else None.
    """
    found: list[LowRank] = []
    for index in range(len(inputs.experts)):
        factors = inputs.low_rank(index, tensor, base)
        if factors is None:
            return None
        found.append(factors)
    return found if 2 * sum(factors.rank for factors in found) <= min(base.shape) else None


def total_matrix(inputs: Inputs, tensor: str, base: Tensor) -> tuple[Tensor | LowRank, float]:
    """Return the sum of the task vectors, as factors where it is of low rank, and the sum of their Frobenius
    norms, which says how large its rounding errors are: where task vectors cancel, nothing else is left.
    """
    factors = factors_of_all(inputs, tensor, base)
    if factors is not None:
        return stacked(factors), sum(norm(tensor, each) for each in factors)
    everyone, lengths = torch.zeros_like(base), 0.0
    for index in range(len(inputs.experts)):
        vector = inputs.task_vector(index, tensor, base)
        lengths += norm(tensor, vector)
        everyone.add_(vector)
    return everyone, lengths


def norm(tensor: str, matrix: Tensor | LowRank) -> float:
    """Return the Frobenius norm of a matrix. Raises InputError, naming the tensor, where it is not finite."""
    return measured(tensor, float(matrix.norm()))


def outside(space: Tensor, vector: Tensor | LowRank) -> Tensor | LowRank:
    """Return a matrix [out, in] without what of its columns lies in the space of some orthonormal columns. A
    dense one may be changed in place.
    """
    if isinstance(vector, LowRank):
        return LowRank(vector.left - space @ (space.T @ vector.left), vector.right)
    return vector.sub_(space @ (space.T @ vector))


def triplets(
    tensor: str, matrix: Tensor | LowRank, most: int | None = None, size: float | None = None
) -> Triplets:
    """Return U [out, k], s [k] falling and V [in, k]: the singular triplets that float32 tells from 0, at
    most `most` of them.

    Triplets with a value below eps * max(out, in) * `size` are left out (`size` is by default the Frobenius
    norm of the matrix). Their vectors are any basis that the library happens to return, and a result must not
    depend on it. Raises InputError where the library finds none.
    """
    most = min(matrix.shape) if most is None else most
    smallest = _smallest(matrix.shape, norm(tensor, matrix) if size is None else size)
    with _told(tensor):
        if isinstance(matrix, LowRank):
            u, s, v = of_product(matrix)
        else:
            u, s, v = leading(matrix, most, smallest)
    count = min(most, int((s > smallest).sum()))
    # These are copies, because a view would keep the whole in memory.
    return u[:, :count].clone(), s[:count].clone(), v[:, :count].clone()


def polar(tensor: str, matrix: Tensor | LowRank, size: float | None = None) -> tuple[Tensor, Tensor]:
    """Return the orthogonal factor of a polar decomposition, U V^T, and the singular values that float32
    tells from 0 at a `size`, as `triplets` does, in any order. Where the matrix is singular the factor is the
    part of it that is unique.
    """
    if isinstance(matrix, LowRank):
        u, s, v = triplets(tensor, matrix, size=size)
        return u @ v.T, s
    with _told(tensor):
        return orthogonal(matrix, _smallest(matrix.shape, norm(tensor, matrix) if size is None else size))


def _smallest(shape: tuple[int, ...], size: float) -> float:
    """Return the value from which on float32 tells a singular value from 0."""
    return torch.finfo(torch.float32).eps * max(shape) * size


@contextmanager
def _told(tensor: str) -> Iterator[None]:
    """Raise InputError where the library finds no singular values."""
    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise InputError(
            f"{tensor}: the singular values of its task vectors cannot be computed ({error})"
        ) from None
