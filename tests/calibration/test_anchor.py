"""The anchor's length, chosen without data."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from epmq_export.calibration import anchor
from epmq_export.calibration.task_vectors import task_vectors
from epmq_export.errors import CalibrationError


class Values:
    def __init__(self, **values: Tensor) -> None:
        self.values = values

    def names(self) -> list[str]:
        return sorted(self.values)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.values[name].shape)

    def load(self, name: str) -> Tensor:
        return self.values[name].clone()


BASE = Values(a=torch.ones(2, 2), b=torch.zeros(3, 2))


def moved(a: float, b: float) -> Values:
    """The base with one entry of each tensor moved."""
    values = Values(a=BASE.load("a"), b=BASE.load("b"))
    values.values["a"][0, 0] += a
    values.values["b"][0, 0] += b
    return values


def anchor_rho(base: Values, experts: Sequence[Values], merged: Values, names: Sequence[str]) -> float:
    return anchor.anchor_rho(task_vectors(base, experts, names, merged))


def test_the_anchor_is_as_long_as_the_task_vectors_together() -> None:
    experts = [moved(3, 0), moved(0, 4)]
    merged = moved(0.9, 1.2)  # 0.3 of their sum, 1.5 long
    assert anchor_rho(BASE, experts, merged, ["a", "b"]) == pytest.approx(7 / 1.5, rel=1e-6)


def test_it_does_not_depend_on_the_coefficient_of_the_merge() -> None:
    experts = [moved(3, 1), moved(-1, 4), moved(2, 2)]
    anchors = [
        scale * anchor_rho(BASE, experts, moved(scale * 4, scale * 7), ["a", "b"])
        for scale in (0.1, 0.3, 1.0, 2.5)
    ]
    assert anchors == pytest.approx([anchors[0]] * 4, rel=1e-5)


@pytest.mark.parametrize("copies", [1, 2, 5])
def test_experts_that_are_one_count_once(copies: int) -> None:
    experts = [moved(3, 0), moved(0, 3)] * copies
    assert anchor_rho(BASE, experts, moved(1, 1), ["a", "b"]) == pytest.approx(6 / math.sqrt(2), rel=1e-6)


def test_an_expert_that_is_there_twice_counts_once() -> None:
    experts = [moved(3, 0), moved(3, 0), moved(0, 4)]
    assert anchor_rho(BASE, experts, moved(1, 1), ["a", "b"]) == pytest.approx(7 / math.sqrt(2), rel=1e-6)


def test_experts_that_cancel_keep_their_lengths() -> None:
    assert anchor_rho(BASE, [moved(3, 0), moved(-3, 0)], moved(0, 1), ["a", "b"]) == pytest.approx(
        6, rel=1e-6
    )


def test_only_the_named_tensors_count() -> None:
    assert anchor_rho(BASE, [moved(3, 100)], moved(1, 1), ["a"]) == pytest.approx(3.0, rel=1e-6)


def test_a_merge_that_is_the_base_is_its_own_anchor() -> None:
    assert anchor_rho(BASE, [moved(0, 0)], moved(0, 0), ["a", "b"]) == 1.0


def test_a_nan_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="not finite"):
        anchor_rho(BASE, [moved(math.nan, 0)], moved(1, 1), ["a"])


def test_a_merge_that_is_the_base_but_for_rounding_is_no_direction() -> None:
    experts = [moved(3, 0), moved(-3, 0)]
    assert anchor_rho(BASE, experts, moved(2.0**-22, 0), ["a", "b"]) == 1.0
    assert anchor_rho(BASE, experts, moved(2.0**-19, 0), ["a", "b"]) > 1e6
