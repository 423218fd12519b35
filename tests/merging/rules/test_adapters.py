"""The rules on adapters: from the factors comes what comes from the matrices, without decomposing these."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from epmq_export.merging.merged import Merged, merged
from epmq_export.tensors.source import TypedSource
from tests.merging.rules.shared.test_decompositions import no_svd_beyond
from tests.tiny.adapters import Adapter, random_product
from tests.tiny.in_memory import InMemory
from tests.tiny.merges import Model, settings_of

NAME, OTHER = "layer.0.weight", "layer.1.weight"
RULES = {
    "tsvm": {},
    "iso_c": {},
    "iso_cts": {"common_space_fraction": 0.5},
    "wudi": {"steps": 40, "learning_rate": 0.003},
    "model_stock": {},
}


def models(
    shape: tuple[int, int], ranks: Sequence[int], dtype: torch.dtype = torch.float32
) -> tuple[Model, list[Adapter]]:
    """A base with entries of about 0.05, and experts whose changes are about a tenth of that."""
    generator = torch.Generator().manual_seed(0)
    base = {name: (torch.randn(shape, generator=generator) * 0.05).to(dtype) for name in (NAME, OTHER)}
    base["layer.0.bias"] = torch.ones(shape[0], dtype=dtype)
    shared = random_product(shape, 1, 99, 0.005)
    experts = []
    for seed, rank in enumerate(ranks):
        product = random_product(shape, rank, seed, 0.005)
        if rank:  # The experts have something in common.
            product.left[:, :1] = shared.left
        experts.append(Adapter(base, {NAME: product}))
    return base, experts


def merge(rule: str, base: Model, experts: Sequence[TypedSource], **more: float) -> Merged:
    chosen = settings_of(rule, {**RULES[rule], **more}, [(str(index), {}) for index in range(len(experts))])
    return merged(InMemory(base), experts, chosen, dtype=torch.float32)


def change(source: Merged, base: Model, name: str = NAME) -> Tensor:
    return source.load(name) - base[name].float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(40, 60), (60, 40)])
@pytest.mark.parametrize("rule", RULES)
def test_factors_give_what_matrices_give(rule: str, shape: tuple[int, int], dtype: torch.dtype) -> None:
    """Within 1e-4 of the change: as far as adding a change to a base ten times as large, and taking the base
    away again, has rounded it.
    """
    base, experts = models(shape, [3, 2, 4], dtype)
    dense = change(merge(rule, base, [InMemory(expert.tensors) for expert in experts]), base)
    by_factors = change(merge(rule, base, experts), base)
    assert float((by_factors - dense).norm()) < 1e-4 * float(dense.norm())
    assert float(dense.norm()) > 0


@pytest.mark.parametrize("rule", ["tsvm", "iso_c", "iso_cts"])
def test_no_matrix_of_an_adapter_is_decomposed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, experts = models((600, 520), [3, 2, 4])
    no_svd_beyond(monkeypatch, 9)
    library = torch.linalg.eigh

    def eigh(matrix: Tensor) -> object:
        assert len(matrix) <= 18
        return library(matrix)

    monkeypatch.setattr(torch.linalg, "eigh", eigh)
    assert float(change(merge(rule, base, experts), base).norm()) > 0


@pytest.mark.parametrize("rule", RULES)
def test_an_adapter_beside_a_whole_expert(rule: str) -> None:
    base, experts = models((40, 60), [3, 2, 4])
    whole = InMemory({name: value + 0.005 * torch.ones_like(value) for name, value in base.items()})
    dense = merge(rule, base, [*(InMemory(expert.tensors) for expert in experts), whole])
    mixed = merge(rule, base, [*experts, whole])
    for name in (NAME, OTHER):
        expected = change(dense, base, name)
        assert float((change(mixed, base, name) - expected).norm()) <= 1e-4 * float(expected.norm())


@pytest.mark.parametrize("rule", RULES)
def test_what_no_adapter_changes_stays_the_bases(rule: str) -> None:
    base, experts = models((40, 60), [3, 0, 4])
    source = merge(rule, base, experts)
    assert torch.equal(source.load(OTHER), base[OTHER])
    assert torch.equal(merge(rule, base, [experts[1]] * 2).load(NAME), base[NAME])


@pytest.mark.parametrize("rule", RULES)
def test_equal_adapters_are_no_trouble(rule: str) -> None:
    base, experts = models((40, 60), [3])
    dense = change(merge(rule, base, [InMemory(experts[0].tensors)] * 3), base)
    by_factors = change(merge(rule, base, experts * 3), base)
    assert float((by_factors - dense).norm()) < 1e-4 * float(dense.norm())


@pytest.mark.parametrize("by_row", [False, True])
def test_model_stock_of_factors_by_tensor_and_by_row(by_row: bool) -> None:
    base, experts = models((40, 60), [3, 2, 4])
    whole = InMemory({name: value + 0.005 for name, value in base.items()})
    for models_ in (experts, [*experts, whole]):
        dense = merge("model_stock", base, [InMemory(each.tensors) for each in models_], filter_wise=by_row)
        expected = change(dense, base)
        got = change(merge("model_stock", base, models_, filter_wise=by_row), base)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))
