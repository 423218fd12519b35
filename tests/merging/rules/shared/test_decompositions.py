"""Leading triplets and polar factors against numpy's float64 decomposition of the same float32 matrix."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from epmq_export.merging.rules.shared.decompositions import gram, leading, of_product, orthogonal
from tests.tiny.adapters import random_product

SIDE = 256
# How fast singular values fall: float32's Gram matrix serves all but the last.
SPECTRA: dict[str, Callable[[Tensor], Tensor]] = {
    "flat": lambda i: 2 - i / SIDE,
    "falling": lambda i: i**-0.5,
    "steep": lambda i: 1 / i,
    "outliers": lambda i: torch.where(i < 4, 1000.0, 1.0) * i**-0.3,
}
SHAPES = [(520, SIDE), (SIDE, 600)]


def orthonormal(rows: int, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64, generator=generator)).Q


def with_spectrum(kind: str, shape: tuple[int, int]) -> Tensor:
    values = SPECTRA[kind](torch.arange(1, SIDE + 1, dtype=torch.float64))
    return (orthonormal(shape[0], SIDE, 1) * values @ orthonormal(shape[1], SIDE, 2).T).float()


def exact(matrix: Tensor, most: int) -> NDArray[np.float64]:
    u, s, vh = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    return np.asarray(u[:, :most] * s[:most] @ vh[:most])


def off(found: Tensor, expected: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(found.double().numpy() - expected) / np.linalg.norm(expected))


def no_svd_beyond(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    library = torch.linalg.svd

    def svd(matrix: Tensor, full_matrices: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        assert max(matrix.shape) <= most
        u, s, vh = library(matrix, full_matrices=full_matrices)
        return u, s, vh

    monkeypatch.setattr(torch.linalg, "svd", svd)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("most", [64, 128, 200])
def test_leading_triplets_are_as_exact_as_float32(
    kind: str, shape: tuple[int, int], most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum of the leading triplets is within 3e-5 of the exact one, relative to its length; U and V are
    orthonormal within 5e-6, and singular values within 2e-6 of the largest.
    """
    matrix = with_spectrum(kind, shape)
    no_svd_beyond(monkeypatch, most + most // 2)
    u, s, v = leading(matrix, most, 1e-6)
    assert u.shape == (shape[0], most) and v.shape == (shape[1], most)
    assert off(u * s @ v.T, exact(matrix, most)) < 3e-5
    for basis in (u, v):
        np.testing.assert_allclose(basis.T @ basis, np.eye(most), atol=5e-6)
    values = np.linalg.svd(matrix.double().numpy(), compute_uv=False)[:most]
    np.testing.assert_allclose(s, values, rtol=0, atol=2e-6 * values[0])
    assert bool((s.diff() <= 0).all())


@pytest.mark.parametrize("kind", SPECTRA)
def test_float32_is_tried_first_and_counts_only_where_it_fits(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.dtype] = []
    library = torch.linalg.eigh

    def eigh(matrix: Tensor) -> object:
        seen.append(matrix.dtype)
        return library(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    leading(with_spectrum(kind, SHAPES[0]), 64, 1e-6)
    assert seen == [torch.float32, torch.float64][: 2 if kind == "outliers" else 1]


def test_the_same_matrix_gives_the_same_bits() -> None:
    first, second = (leading(with_spectrum("falling", SHAPES[0]), 64, 1e-6) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


@pytest.mark.parametrize("most", [64, 200])
def test_what_has_fewer_triplets_than_are_asked_for(most: int) -> None:
    product = random_product(SHAPES[0], 20, seed=0)
    matrix = product.dense()
    smallest = 1e-7 * max(matrix.shape) * float(matrix.norm())
    u, s, v = leading(matrix, most, smallest)
    counting = s > smallest
    assert int(counting.sum()) == 20
    assert off((u * s)[:, counting] @ v[:, counting].T, matrix.double().numpy()) < 5e-6


@pytest.mark.parametrize("shape", [(2000, 64), (520, SIDE), (SIDE, 520), (SIDE, SIDE)])
def test_polar_factors_are_as_exact_as_float32(shape: tuple[int, int]) -> None:
    """Bases of several experts side by side, some of whose directions all but coincide."""
    parts = [orthonormal(max(shape), min(shape) // 4, seed) for seed in range(4)]
    parts[1][:, 0] = parts[0][:, 0] + 0.05 * parts[1][:, 0]
    matrix = torch.cat(parts, 1).float()
    matrix = matrix if shape[0] >= shape[1] else matrix.T
    u, s, vh = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    smallest = float(s[-20] + s[-21]) / 2
    factor, values = orthogonal(matrix, smallest)
    assert off(factor, u[:, :-20] @ vh[:-20]) < 2e-5
    np.testing.assert_allclose(values.sort(descending=True).values, s[:-20], rtol=1e-5)


def test_a_gram_matrix_is_filled_in_below_its_diagonal() -> None:
    matrix = torch.randn(30, 1100, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gram(matrix).tril(), (matrix.T @ matrix).tril())


@pytest.mark.parametrize(("shape", "rank"), [((300, 200), 8), ((200, 300), 0), ((20, 30), 25)])
def test_a_product_goes_by_its_factors(
    shape: tuple[int, int], rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    product = random_product(shape, rank, seed=1)
    no_svd_beyond(monkeypatch, max(rank, 1))
    u, s, v = of_product(product)
    expected = product.left.double() @ product.right.double()
    torch.testing.assert_close(u.double() * s @ v.T.double(), expected, rtol=0, atol=2e-6)
    for basis in (u, v):
        np.testing.assert_allclose(basis.T @ basis, np.eye(len(s)), atol=1e-6)
