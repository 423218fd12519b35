"""Singular values and vectors of float32 matrices, by the cheapest way that is as exact as float32.

A matrix that is a product of thin factors goes by the factors: their QR decompositions, and a core of rank by
rank. Of a large one the Gram matrix of its shorter side is decomposed. Its eigenvalues are the squares of the
singular values, which needs twice the digits: float64 has them for every value that counts here. float32 has
them, after a correction by the matrix itself, where the values that are asked for are not far below the
largest; that is tried first where few are asked for, and counts only where what it finds fits the matrix.
Small matrices go by the library's decomposition.
"""

import torch
from torch import Tensor

from epmq_export.tensors.low_rank import LowRank

Triplets = tuple[Tensor, Tensor, Tensor]
"""U [out, k], s [k] falling and V [in, k]."""

# The longer side from which a Gram matrix in float64 is as exact as float32: singular values that count are
# at least float32's eps times this of the length, and their squares are that far above float64's eps.
_LARGE = 512
# The most that a triplet of the float32 Gram matrix may miss, as a share of the least singular value asked
# for: |M^T u - s v| / s.
_FITS = 2.0**-13
# The columns of a Gram matrix that are computed together. Only the lower triangle of them is needed.
_COLUMNS = 512


def of_product(matrix: LowRank) -> Triplets:
    """Return all singular triplets of a product, computed in float64, as float32."""
    outer, left = torch.linalg.qr(matrix.left.double())
    inner, right = torch.linalg.qr(matrix.right.double().T)
    u, s, vh = torch.linalg.svd(left @ right.T, full_matrices=False)
    return (outer @ u).float(), s.float(), (inner @ vh.T).float()


def leading(matrix: Tensor, most: int, smallest: float) -> Triplets:
    """Return the `most` largest singular triplets of a matrix. Those with a value below `smallest` may be
    missing, or be any.
    """
    if max(matrix.shape) < _LARGE:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u, s, vh.T
    if matrix.shape[0] < matrix.shape[1]:
        v, s, u = leading(matrix.T, most, smallest)
        return u, s, v
    found = _by_float32(matrix, most, smallest) if most <= min(matrix.shape) // 2 else None
    return _by_float64(matrix, most, smallest) if found is None else found


def orthogonal(matrix: Tensor, smallest: float) -> tuple[Tensor, Tensor]:
    """Return the orthogonal factor of the polar decomposition of a matrix [rows, columns] without the
    singular values below `smallest`, and the other ones.
    """
    if max(matrix.shape) < _LARGE:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        return u[:, s > smallest] @ vh[s > smallest], s[s > smallest]
    if matrix.shape[0] < matrix.shape[1]:
        factor, s = orthogonal(matrix.T, smallest)
        return factor.T, s
    values, vectors = torch.linalg.eigh(gram(matrix.double()))
    kept = values > smallest * smallest
    # The inverse of the square root of M^T M, as the square of a matrix that float32 holds as well.
    root = (vectors[:, kept] * values[kept] ** -0.25).float()
    return matrix @ (root @ root.T), values[kept].sqrt().float()


def gram(matrix: Tensor) -> Tensor:
    """Return M^T M, of which only the lower triangle is filled in, in the matrix's dtype."""
    columns = matrix.shape[1]
    result = matrix.new_zeros(columns, columns)
    for start in range(0, columns, _COLUMNS):
        stop = min(start + _COLUMNS, columns)
        torch.mm(matrix[:, start:].T, matrix[:, start:stop], out=result[start:, start:stop])
    return result


def _by_float32(matrix: Tensor, most: int, smallest: float) -> Triplets | None:
    """Return the leading triplets by the float32 Gram matrix, or None where they do not fit the matrix."""
    values, vectors = torch.linalg.eigh(gram(matrix))
    values, vectors = values.flip(0), vectors.flip(1)
    # Squares have cost digits, by which vectors are mixed. Among those that are near, the matrix itself says
    # how: the triplets of M V. Those that are farther off are mixed so little that the first order does.
    near = most + most // 2
    images = matrix @ vectors[:, :near]
    _, s, vh = torch.linalg.svd(torch.linalg.qr(images, mode="r").R)
    turn, squares = vh[:most].T, s[:most].square()
    far = vectors[:, near:]
    mixed = far.T @ (matrix.T @ (images @ turn)) / (squares - values[near:, None])
    space = torch.linalg.qr(vectors[:, :near] @ turn + far @ mixed).Q
    outer, core = torch.linalg.qr(matrix @ space)
    u, s, vh = torch.linalg.svd(core)
    u, v = outer @ u, space @ vh.T
    counting = s > smallest
    missed = torch.addmm(v * s, matrix.T, u, beta=-1).norm(dim=0)[counting]
    fits = not len(missed) or float(missed.max()) <= _FITS * float(s[counting].min())
    return (u, s, v) if fits else None


def _by_float64(matrix: Tensor, most: int, smallest: float) -> Triplets:
    """Return the leading triplets that count by the float64 Gram matrix."""
    wide = matrix.double()
    values, vectors = torch.linalg.eigh(gram(wide))
    counting = min(most, int((values > smallest * smallest).sum()))
    v = vectors[:, len(values) - counting :].flip(1)
    s = values[len(values) - counting :].flip(0).sqrt()
    return (wide @ (v / s)).float(), s.float(), v.float()
