"""The factors of adapters: what they are, who passes them on, and that they make what is loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import GPT2Config, GPT2Model

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.names import Layers
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.low_rank import LowRank, low_rank_change, row_products, stacked
from epmq_export.tensors.source import Joined, Renamed, TypedSource, only, without
from tests.tensors.test_lora import QUERY, bert, save
from tests.tiny.adapters import Adapter, random_product
from tests.tiny.in_memory import InMemory
from tests.tiny.merges import settings_of


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    return GPT2Model(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2)).eval()


def inputs_of(base: TypedSource, expert: TypedSource) -> Inputs:
    return Inputs(base, [expert], settings_of("linear"), Layers({}))


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (bert, {"target_modules": ["query", "dense"], "lora_alpha": 8}),
        (bert, {"target_modules": ["word_embeddings", "value"]}),
        (bert, {"target_modules": ["query"], "modules_to_save": ["pooler"], "bias": "all"}),
        (gpt2, {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_base_and_factors_make_what_is_loaded(
    model: Any, settings: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    base, adapter, _ = save(tmp_path, model().to(dtype), LoraConfig(r=3, **settings))
    own = open_checkpoint(base)
    source = open_checkpoint(adapter, base=own)
    seen = set()
    for name in source.names():
        change = low_rank_change(source, name)
        if change is None:
            assert len(source.shape(name)) != 2 or "pooler" in name
            continue
        seen.add(change.product.rank)
        assert change.product.shape == source.shape(name)
        assert torch.equal(change.origin(), own.load(name))
        made = own.load(name).float() + change.product.dense()
        torch.testing.assert_close(made, source.load(name).float(), rtol=1e-6, atol=1e-7)
        assert (change.product.rank == 0) == torch.equal(source.load(name).float(), own.load(name).float())
    assert seen == {0, 3}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_how_far_the_factors_are_from_a_difference(dtype: torch.dtype, tmp_path: Path) -> None:
    """A difference has lost what adding to the base rounds away: up to half a unit in the last place of the
    base or the expert, and as much again of what was subtracted.
    """
    base, adapter, _ = save(tmp_path, bert().to(dtype), LoraConfig(r=3, target_modules=["query"]))
    own = open_checkpoint(base)
    inputs = inputs_of(own, open_checkpoint(adapter, base=own))
    before = inputs.base(QUERY)
    product = inputs.low_rank(0, QUERY, before)
    assert product is not None
    off = (inputs.task_vector(0, QUERY, before) - product.dense()).abs()
    largest = torch.maximum(inputs.expert(0, QUERY).abs(), before.abs())
    rounded = 2**-22 * (product.left.abs() @ product.right.abs())
    assert bool((off <= 2**-23 * largest + rounded).all())
    exact = product.left.double() @ product.right.double()
    difference = inputs.task_vector(0, QUERY, before)
    assert float((product.dense() - exact).norm()) < float((difference - exact).norm())


def test_an_adapter_on_another_base_gives_no_factors(tmp_path: Path) -> None:
    base = save(tmp_path, bert(), LoraConfig(r=3, target_modules=["query"]))[0]
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_bytes((base / "config.json").read_bytes())
    tensors = load_file(base / "model.safetensors")
    tensors[QUERY][0, 0] += 1e-3
    save_file(tensors, other / "model.safetensors")
    merged_on = open_checkpoint(base)
    same = open_checkpoint("base+adapter", merged_on, tmp_path)
    moved = open_checkpoint("other+adapter", merged_on, tmp_path)
    key = "encoder.layer.1.attention.self.query.weight"
    before = {name: inputs_of(merged_on, same).base(name) for name in (QUERY, key)}
    assert inputs_of(merged_on, same).low_rank(0, QUERY, before[QUERY]) is not None
    assert inputs_of(merged_on, moved).low_rank(0, QUERY, before[QUERY]) is None
    assert inputs_of(merged_on, moved).low_rank(0, key, before[key]) is not None


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_factors_that_are_not_finite_are_left_to_the_matrix(bad: float) -> None:
    base = {"layer.0.weight": torch.ones(4, 5)}
    product = random_product((4, 5), 2, 0)
    product.left[0, 0] = bad
    inputs = inputs_of(InMemory(base), Adapter(base, {"layer.0.weight": product}))
    assert inputs.low_rank(0, "layer.0.weight", base["layer.0.weight"]) is None


def test_sources_made_of_others_pass_factors_on() -> None:
    base = {"a.weight": torch.ones(4, 5), "b.weight": torch.ones(3, 3), "b.bias": torch.ones(3)}
    adapter = Adapter(base, {"a.weight": random_product((4, 5), 2, 0)})

    def rank(source: object, name: str) -> int | None:
        change = low_rank_change(source, name)
        return None if change is None else change.product.rank

    assert rank(adapter, "a.weight") == 2 and rank(adapter, "b.bias") is None
    assert rank(Renamed(adapter, {"x": "a.weight"}), "x") == 2
    joined = Joined([without(adapter, ["b.weight"]), only(InMemory(base), ["b.weight"])])
    assert rank(joined, "a.weight") == 2 and rank(joined, "b.weight") is None


def test_products_of_rows_and_lengths_are_those_of_the_matrices() -> None:
    first, second = random_product((6, 9), 2, 0), random_product((6, 9), 4, 1)
    exact = [each.left.double() @ each.right.double() for each in (first, second)]
    expected = (exact[0] * exact[1]).sum(1)
    for one in (first, first.dense()):
        for other in (second, second.dense()):
            torch.testing.assert_close(row_products(one, other), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(row_products(other, one), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(first.norm(), exact[0].norm())
    assert float(LowRank(torch.zeros(3, 0), torch.zeros(0, 4)).norm()) == 0
    both = stacked([first, second])
    torch.testing.assert_close(both.dense(), first.dense() + second.dense())
    columns = torch.ones(9, 2)
    torch.testing.assert_close(both.times(columns), both.dense() @ columns)
