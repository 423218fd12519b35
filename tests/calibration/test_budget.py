"""Bits are spent where measured losses fall most, and never past the budget."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epmq_export.calibration.budget import Option, fewest_bits, hull, spend, with_budget, within_size
from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.grids import GRIDS
from epmq_export.grids.layout import Layout
from tests.tiny.calibrated_bert import tiny

numbers = st.integers(1, 40).map(float)
options = st.lists(
    st.builds(Option, st.text("ab", min_size=1, max_size=2), numbers, numbers), min_size=1, max_size=5
)


def total(chosen: list[Option]) -> tuple[float, float]:
    return sum(option.bits for option in chosen), sum(option.loss for option in chosen)


@settings(max_examples=200)
@given(st.lists(options, min_size=1, max_size=4), st.integers(0, 200))
def test_what_is_spent_is_within_the_budget_and_near_the_best_there_is(
    lists: list[list[Option]], budget: int
) -> None:
    named = {str(index): each for index, each in enumerate(lists)}
    fewest = total([min(each, key=lambda option: option.bits) for each in lists])[0]
    if budget < fewest - 1:
        with pytest.raises(ValueError, match=r"a budget of \d+ bits for tensors that take \d+ at least"):
            spend(named, budget)
    if budget < fewest:
        return
    bits, loss = total(list(spend(named, budget).values()))
    assert bits <= budget
    best = min(total(list(each))[1] for each in itertools.product(*lists) if total(list(each))[0] <= budget)
    # One step of one tensor is all that greed can miss.
    steps = [one.loss - other.loss for each in lists for one, other in itertools.pairwise(hull(each))]
    assert best <= loss <= best + max(steps, default=0.0)


@given(options)
def test_a_hull_falls_ever_more_slowly(each: list[Option]) -> None:
    kept = hull(each)
    slopes = [(one.loss - other.loss) / (other.bits - one.bits) for one, other in itertools.pairwise(kept)]
    assert all(slope > 0 for slope in slopes) and slopes == sorted(slopes, reverse=True)
    assert kept[0].bits == min(option.bits for option in each) and kept[-1].loss == min(
        option.loss for option in each
    )


def test_a_budget_is_spent_by_measured_loss_and_patterns_are_left_alone(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    model = tiny(tmp_path_factory.mktemp("tiny") / "base")
    layout = Layout(overrides={"*.value.weight": "F16"})
    calibrator = model.calibrator("epmq", layout=layout)
    losses = {}
    for bits in (4.5, 5.5):
        found, note = with_budget(calibrator, bits, [GRIDS["Q4_0"], GRIDS["IQ4_NL"], GRIDS["Q8_0"]])
        assert not any(".value." in name for name in found.chosen) and len(found.chosen) == 10
        assert note.startswith(f"{bits:g} bits a weight: ") and "by measured loss" in note
        blocks = calibrate_blocks(replace(calibrator, layout=found))
        result = [loss for _, block in blocks for loss in block.losses]
        assert {loss.tensor: loss.grid for loss in result if loss.tensor in found.chosen} == found.chosen
        losses[bits] = sum(loss.loss_after for loss in result)
    assert losses[5.5] < losses[4.5]
    # Q4_0 takes as much as IQ4_NL and is never better here: it is on no hull.
    assert "Q8_0" in found.chosen.values() and "IQ4_NL" in found.chosen.values()


def test_the_fewest_bits_are_those_of_the_smallest_grids_that_fit(tmp_path: Path) -> None:
    model = tiny(tmp_path / "base")  # nothing is a multiple of 256
    calibrator = model.calibrator("epmq", layout=Layout(overrides={"*.value.weight": "F16"}))
    assert fewest_bits(calibrator, [GRIDS["Q2_K"], GRIDS["Q8_0"], GRIDS["Q4_0"]]) == 4.5
    assert fewest_bits(calibrator, [GRIDS["Q2_K"]]) == 0.0


def test_a_size_takes_the_largest_budget_that_fits(tmp_path: Path) -> None:
    model = tiny(tmp_path / "base")
    calibrator = model.calibrator("gptq")
    candidates = [GRIDS["Q4_0"], GRIDS["Q8_0"]]
    linears = sorted(with_budget(calibrator, 4.5, candidates)[0].chosen)
    for most in (0, 3, len(linears)):

        def fits(layout: Layout, most: int = most) -> bool:
            return sum(grid == "Q8_0" for grid in layout.chosen.values()) <= most

        layout, note = within_size(calibrator, "9K", fits, candidates)
        assert fits(layout) and note.startswith("files of at most 9K: ")
        # Linears are of three sizes, so that one step more may be two.
        assert most - 2 <= sum(grid == "Q8_0" for grid in layout.chosen.values())
