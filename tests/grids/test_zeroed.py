"""The grid with zero points, which is one weight in GGUF and in ONNX."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epmq_export.grids import GRIDS
from epmq_export.grids.zeroed import Zeroed
from tests.tiny.grid_points import random_point, random_weights

GRID = GRIDS["Q4_1Z"]
assert isinstance(GRID, Zeroed)
seeds = st.integers(0, 2**31)


def same_bits(codes: torch.Tensor, stored: dict[str, torch.Tensor]) -> bool:
    """Whether Q4_1's d code + m and ONNX's (code - z) d are one float32."""
    assert isinstance(GRID, Zeroed)
    zeros, scales = (
        part.repeat_interleave(32, 1) for part in (GRID.zeros(stored).int(), stored["scales"].float())
    )
    assert int(zeros.max()) <= 15
    ours = GRIDS["Q4_1"].dequantise(codes, stored)
    return torch.equal(((codes - zeros).float() * scales).view(torch.int32), ours.view(torch.int32))


@settings(max_examples=40)
@given(seed=seeds, magnitude=st.floats(1e-7, 5e4))
def test_what_is_fitted_is_one_weight_in_both_files(seed: int, magnitude: float) -> None:
    codes, stored = GRID.quantise(random_weights(seed, magnitude, width=96) + magnitude * (seed % 3 - 1) / 9)
    assert same_bits(codes, dict(stored))


@settings(max_examples=40)
@given(seed=seeds)
def test_so_is_any_point(seed: int) -> None:
    point = random_point(GRID, 3, 4, seed)
    assert same_bits(point.codes, dict(point.stored))


@settings(max_examples=20)
@given(seed=seeds)
def test_a_zero_point_pays(seed: int) -> None:
    """For weights to one side of 0 more than for those around it."""
    weight = random_weights(seed, 1.0, out=8, width=96)
    for shifted, share in ((weight + 0.2, 0.9), (weight, 1.05)):
        errors = [
            float((GRIDS[name].dequantise(*GRIDS[name].quantise(shifted)) - shifted).square().sum())
            for name in ("Q4_1Z", "Q4_0")
        ]
        assert errors[0] < share * errors[1]


@settings(max_examples=20)
@given(seed=seeds)
def test_a_min_is_the_product_of_scale_and_zero_point_to_the_sign_of_zero(seed: int) -> None:
    _, stored = GRID.quantise(random_weights(seed, 1.0, width=96).abs())
    assert isinstance(GRID, Zeroed)
    again = (0.0 - stored["scales"].float() * GRID.zeros(stored)).half()
    assert (
        torch.equal(again.view(torch.int16), stored["mins"].view(torch.int16))
        and not GRID.zeros(stored).all()
    )


def test_a_negative_step_is_none() -> None:
    stored = GRID.round(torch.tensor([[-1.0, 0.25]]), torch.tensor([[2.0, -0.74]]))
    assert {part: numbers.tolist() for part, numbers in stored.items()} == {
        "scales": [[0, 0.25]],
        "mins": [[0, -0.75]],
    }


@settings(max_examples=40)
@given(seed=seeds)
def test_weights_within_reach_give_finite_numbers(seed: int) -> None:
    weight = 0.84 * 65504 * torch.sign(random_weights(seed, 1.0, out=64, width=32))
    _, stored = GRID.quantise(weight)
    assert all(bool(torch.isfinite(numbers).all()) for numbers in stored.values()) and GRID.holds(stored)


def test_a_min_that_is_no_product_is_not_held() -> None:
    stored = {"scales": torch.tensor([[0.125]]).half(), "mins": torch.tensor([[-0.25]]).half()}
    assert GRID.holds(stored) and not GRID.holds({**stored, "mins": torch.tensor([[-0.1875]]).half()})
