"""What holds for every rule: dtypes, memory, and what it refuses."""

import pytest
import torch

from epmq_export.errors import InputError, RecipeError
from epmq_export.merging.merged import merged
from epmq_export.merging.registry import RULES
from tests.tiny.in_memory import InMemory, LiveBytes
from tests.tiny.merges import SIZE, merge, model, needed, settings_of


@pytest.mark.parametrize("rule", list(RULES))
def test_integers_are_the_bases_and_dtypes_are_kept_or_set(rule: str) -> None:
    base = {**model([1.0] * SIZE, torch.bfloat16), "position_ids": torch.arange(3)}
    expert = InMemory({**model([2.0] * SIZE, torch.float16), "position_ids": torch.arange(3) + 1})
    count = RULES[rule].experts[0]
    chosen = settings_of(rule, needed(rule), [(f"expert {index}", {}) for index in range(count)])
    got = merged(InMemory(base), [expert] * count, chosen)
    assert torch.equal(got.load("position_ids"), torch.arange(3))
    assert got.load("scalar").dtype == got.dtype("scalar") == torch.bfloat16
    cast = merged(InMemory(base), [expert] * count, chosen, torch.float32)
    assert cast.load("scalar").dtype == cast.dtype("scalar") == torch.float32
    assert cast.dtype("position_ids") == torch.int64
    assert list(got.names()) == sorted(base) and got.shape("embeddings.weight") == (5, 3)


@pytest.mark.parametrize("rule", [rule for rule in RULES if RULES[rule].experts[1] is None])
def test_memory_grows_neither_with_experts_nor_with_depth(rule: str) -> None:
    side = 64

    def peak(experts: int, depth: int) -> int:
        generator = torch.Generator().manual_seed(0)
        base, *others = (
            InMemory(
                {f"layer.{i}.weight": torch.randn(side, side, generator=generator) for i in range(depth)}
            )
            for _ in range(experts + 1)
        )
        source = merged(
            base, others, settings_of(rule, needed(rule), [(str(index), {}) for index in range(experts)])
        )
        with LiveBytes() as gauge:
            for name in source.names():
                source.load(name)
        return gauge.peak

    tensor = 4 * side * side
    histograms = 4 * 8 * (1 << 16)  # the counts of a threshold's search, whatever the model's size
    few = peak(2, 2)
    assert few >= 3 * tensor
    assert few <= 16 * tensor + (histograms if rule == "ties" else 0)
    assert peak(9, 2) - few <= tensor
    assert peak(2, 9) - few <= tensor


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused_with_its_tensor(rule: str, bad: float) -> None:
    base, expert = model([1.0] * SIZE), model([2.0] * SIZE)
    expert["encoder.layer.1.bias"][2] = bad
    others = [model([3.0] * SIZE)] * (RULES[rule].experts[0] - 1)
    with pytest.raises(InputError, match=r"expert 0: tensor encoder\.layer\.1\.bias has 1 values"):
        merge(rule, base, [expert, *others]).load("encoder.layer.1.bias")


def test_a_result_beyond_its_dtype_is_refused() -> None:
    base, expert = model([0.0] * SIZE, torch.float16), model([8.0 * 60000] * SIZE)
    source = merge("task_arithmetic", base, [expert], {"lambda": 2}, [{}])
    with pytest.raises(RecipeError, match="scalar has values beyond float16"):
        source.load("scalar")


def test_too_few_or_too_many_experts_are_refused() -> None:
    with pytest.raises(RecipeError, match="found no expert"):
        settings_of("linear", {}, [])
    for rule, parts in RULES.items():
        fewest, most = parts.experts
        for count in {fewest - 1, (most or fewest) + 1}:
            if count and (count < fewest or count > (most or count)):
                with pytest.raises(
                    RecipeError, match=f"found {count} experts, expected .*{fewest}.* for {rule}"
                ):
                    settings_of(rule, needed(rule), [(str(index), {}) for index in range(count)])


def test_an_expert_of_another_shape_is_refused_before_anything_is_read() -> None:
    expert = {**model([1.0] * SIZE), "encoder.layer.1.bias": torch.zeros(8)}
    with pytest.raises(
        InputError,
        match=(
            r"expert 0 does not fit the base: encoder\.layer\.1\.bias has shape \[8\], the base's "
            r"has \[7\]"
        ),
    ):
        merge("linear", model([1.0] * SIZE), [expert], {}, [{}])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_a_tensor_without_entries_stays_one(rule: str, shape: tuple[int, ...]) -> None:
    models = [{"layer.0.weight": torch.ones(2, 2), "empty": torch.ones(shape)}] * 2
    count = 1 if RULES[rule].experts[1] == 1 else 2
    assert merge(rule, models[0], models[:count]).load("empty").shape == shape
