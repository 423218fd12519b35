"""TSV-M, Iso-C, Iso-CTS and WUDI against slow float64 references that take the papers' formulas literally."""

import logging
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.merging.rules.shared import spectral
from tests.tiny.merges import SIZE, Model, merge, model

Matrix = NDArray[np.float64]
NAME = "layer.0.weight"
SPECTRAL = ["tsvm", "iso_c", "iso_cts"]
ALL = [*SPECTRAL, "wudi"]


def random(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


def models(
    shape: tuple[int, int], count: int, rank: int | None = None
) -> tuple[Model, list[Model], list[Matrix]]:
    """A base, experts, and their task vectors as float64; of full rank, or of a given one."""
    base = random(shape, 0)
    vectors = [
        random(shape, index)
        if rank is None
        else random((shape[0], rank), index) @ random((rank, shape[1]), -index)
        for index in range(1, count + 1)
    ]
    experts = [base + vector for vector in vectors]
    return (
        {NAME: base},
        [{NAME: expert} for expert in experts],
        [(expert - base).double().numpy() for expert in experts],
    )


def orthogonal(matrix: Matrix) -> Matrix:
    u, _, vh = np.linalg.svd(matrix, full_matrices=False)
    return np.asarray(u @ vh)


def reference_tsvm(vectors: Sequence[Matrix]) -> Matrix:
    kept = min(vectors[0].shape) // len(vectors)
    parts = [np.linalg.svd(vector, full_matrices=False) for vector in vectors]
    u = orthogonal(np.hstack([u[:, :kept] for u, _, _ in parts]))
    v = orthogonal(np.vstack([vh[:kept] for _, _, vh in parts]))
    return np.asarray(u @ np.diag(np.concatenate([s[:kept] for _, s, _ in parts])) @ v)


def reference_iso_c(vectors: Sequence[Matrix]) -> Matrix:
    u, s, vh = np.linalg.svd(sum(vectors[1:], vectors[0]), full_matrices=False)
    return np.asarray(u @ np.diag(np.full_like(s, s.mean())) @ vh)


def reference_iso_cts(vectors: Sequence[Matrix], common: int, own: int) -> Matrix:
    u, s, vh = np.linalg.svd(sum(vectors[1:], vectors[0]), full_matrices=False)
    us, ss, vs = [u[:, :common]], [s[:common]], [vh[:common]]
    for vector in vectors:
        a, b, c = np.linalg.svd(vector - u[:, :common] @ u[:, :common].T @ vector, full_matrices=False)
        us.append(a[:, :own])
        ss.append(b[:own])
        vs.append(c[:own])
    return np.asarray(orthogonal(np.hstack(us)) * np.concatenate(ss).mean() @ orthogonal(np.vstack(vs)))


def reference_wudi(vectors: Sequence[Matrix], steps: int, rate: float) -> Matrix:
    tau = sum(vectors[1:], vectors[0])
    first, second = np.zeros_like(tau), np.zeros_like(tau)
    for step in range(1, steps + 1):
        gradient = sum(2 * (tau - vector) @ vector.T @ vector / np.sum(vector**2) for vector in vectors)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        tau = tau - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return np.asarray(tau)


def change(rule: str, base: Model, experts: Sequence[Model], **parameters: float) -> Matrix:
    return (merge(rule, base, experts, parameters).load(NAME) - base[NAME]).double().numpy()


SHAPES = [(12, 12), (20, 13), (9, 30)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_tsvm_and_iso_c(shape: tuple[int, int], count: int) -> None:
    base, experts, vectors = models(shape, count)
    np.testing.assert_allclose(change("tsvm", base, experts), reference_tsvm(vectors), atol=2e-4)
    np.testing.assert_allclose(change("iso_c", base, experts), reference_iso_c(vectors), atol=3e-5)
    np.testing.assert_allclose(
        change("tsvm", base, experts, **{"lambda": 0.5}), reference_tsvm(vectors) / 2, atol=2e-4
    )
    np.testing.assert_allclose(
        change("iso_c", base, experts, **{"lambda": 1.5}), reference_iso_c(vectors) * 1.5, atol=3e-5
    )


@pytest.mark.parametrize(
    ("shape", "count", "fraction", "common", "own"),
    [
        ((12, 12), 3, 0.8, 9, 1),
        ((12, 12), 3, 0.5, 6, 2),
        ((20, 13), 2, 0.5, 5, 4),
        ((9, 30), 4, 0.0, 1, 2),
        ((12, 12), 3, 1.0, 12, 0),
        ((5, 5), 3, 0.0, 2, 1),
    ],
)
def test_iso_cts(shape: tuple[int, int], count: int, fraction: float, common: int, own: int) -> None:
    base, experts, vectors = models(shape, count)
    got = change("iso_cts", base, experts, common_space_fraction=fraction)
    np.testing.assert_allclose(got, reference_iso_cts(vectors, common, own), atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_wudi(shape: tuple[int, int], count: int) -> None:
    base, experts, vectors = models(shape, count)
    got = change("wudi", base, experts, steps=40, learning_rate=0.01)
    np.testing.assert_allclose(got, reference_wudi(vectors, 40, 0.01), atol=3e-5)
    assert count == 1 or np.abs(got - sum(vectors)).max() > 0.05


def test_wudis_defaults_are_300_steps_of_1e_5() -> None:
    base, experts, vectors = models((8, 8), 2)
    np.testing.assert_allclose(change("wudi", base, experts), reference_wudi(vectors, 300, 1e-5), atol=2e-6)


def test_wudi_leaves_one_expert_as_it_is_and_passes_over_one_that_is_the_base() -> None:
    base, experts, vectors = models((8, 8), 2)
    np.testing.assert_allclose(change("wudi", base, experts[:1]), vectors[0], atol=1e-6)
    np.testing.assert_allclose(
        change("wudi", base, [*experts, base]), change("wudi", base, experts), atol=1e-6
    )


@pytest.mark.parametrize("rule", ["tsvm", "wudi"])
def test_one_expert_comes_back(rule: str) -> None:
    base, experts, vectors = models((20, 13), 1)
    np.testing.assert_allclose(change(rule, base, experts), vectors[0], atol=1e-5)


@pytest.mark.parametrize("rule", ALL)
def test_all_but_linears_get_the_mean(rule: str) -> None:
    tables = [
        "embeddings.word_embeddings.weight",
        "wte.weight",
        "model.shared.weight",
        "block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    ]
    base = {
        **{name: random((6, 4), 0) for name in tables},
        "layer.0.bias": random((6,), 0),
        "patch.weight": random((3, 4, 2, 2), 0),
        "scale": random((), 0),
    }
    experts = [
        {name: value + random(tuple(value.shape), index) for name, value in base.items()}
        for index in (1, 2, 3)
    ]
    source = merge(rule, base, experts, {"lambda": 0.5})
    for name, value in base.items():
        mean = sum(((expert[name] - value).double() for expert in experts), torch.zeros(())) / 3
        torch.testing.assert_close(source.load(name).double(), value.double() + 0.5 * mean, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", ALL)
@pytest.mark.parametrize(
    "name",
    [
        "shared_expert.weight",
        "embed_out.weight",
        "albert.encoder.embedding_hidden_mapping_in.weight",
        "electra.embeddings_project.weight",
    ],
)
def test_linears_with_names_like_those_of_tables(rule: str, name: str) -> None:
    others = [{name: random((6, 4), index)} for index in (1, 2, 3)]
    mean = sum((other[name] for other in others), torch.zeros(())) / 3
    assert not torch.allclose(merge(rule, {name: random((6, 4), 0)}, others).load(name), mean, atol=1e-3)


def test_a_linear_smaller_than_the_number_of_experts_gets_the_mean_and_is_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    base, experts, vectors = models((2, 9), 3)
    with caplog.at_level(logging.INFO):
        np.testing.assert_allclose(change("tsvm", base, experts), np.mean(vectors, axis=0), atol=1e-6)
    assert [record.message for record in caplog.records] == [
        "tsvm: layer.0.weight [2, 9] has fewer singular values than there are experts; it gets the mean"
    ]


@pytest.mark.parametrize("rule", SPECTRAL)
def test_directions_without_a_singular_value_do_not_decide(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Task vectors of rank 2 among 12: the result must not depend on which basis the library returns for the
    rest.
    """
    base, experts, _ = models((16, 12), 3, rank=2)
    first = change(rule, base, experts)
    library = torch.linalg.svd

    def turned(matrix: Tensor, full_matrices: bool) -> tuple[Tensor, Tensor, Tensor]:
        u, s, vh = library(matrix, full_matrices=full_matrices)
        null = s < 1e-4 * s[0]
        if int(null.sum()) > 1:
            turn = library(random((int(null.sum()),) * 2, 5))[0]
            u[:, null], vh[null] = u[:, null] @ turn, -vh[null]
        return u, s, vh

    monkeypatch.setattr(spectral.torch.linalg, "svd", turned)
    np.testing.assert_allclose(change(rule, base, experts), first, atol=1e-4)
    assert np.abs(first).max() > 0.1


def test_equal_experts_are_one_for_tsvm() -> None:
    base, experts, vectors = models((12, 12), 1)
    u, s, vh = np.linalg.svd(vectors[0])
    np.testing.assert_allclose(change("tsvm", base, experts * 3), u[:, :4] * s[:4] @ vh[:4], atol=1e-4)


@pytest.mark.parametrize("rule", ALL)
def test_experts_that_are_the_base_change_nothing(rule: str) -> None:
    base = model([float(number) for number in range(SIZE)])
    source = merge(rule, base, [base, base])
    for name, value in base.items():
        assert torch.equal(source.load(name), value)


def test_singular_values_that_cannot_be_computed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(spectral.torch.linalg, "svd", fails)
    base, experts, _ = models((4, 4), 1)
    with pytest.raises(
        InputError,
        match=(
            r"layer\.0\.weight: the singular values of its task vectors cannot be computed \(did not "
            r"converge\)"
        ),
    ):
        change("iso_c", base, experts)


def test_tsvm_is_the_same_in_one_thread_and_in_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a Gram matrix is decomposed, as of all large linears."""
    base, experts, _ = models((520, 48), 3)
    found = []
    for count in (1, 2):
        monkeypatch.setattr("epmq_export.threads.asked", lambda count=count: count)
        found.append(merge("tsvm", base, experts).load(NAME))
    assert torch.equal(*found)
