"""The statistics of a step's inputs against weighted sums in float64."""

import pytest
import torch
from torch import Tensor

from epmq_export.calibration.statistics import STRIP, TaskMoments, accumulate
from epmq_export.errors import CalibrationError

CPU = torch.device("cpu")


@pytest.fixture
def rows() -> tuple[Tensor, Tensor, Tensor]:
    """Student rows, target rows and their weights."""
    torch.manual_seed(0)
    student = torch.randn(50, 8)
    return student, student + 0.2 * torch.randn(50, 8), torch.rand(50) + 0.1


def sums(student: Tensor, target: Tensor | None, weights: Tensor, batches: int = 3) -> TaskMoments:
    moments = TaskMoments.zeros(student.shape[1], CPU)
    for part in torch.arange(len(student)).tensor_split(batches):
        moments.add(student[part], None if target is None else target[part], weights[part])
    return moments


def test_weighted_expectations(rows: tuple[Tensor, Tensor, Tensor]) -> None:
    student, target, weights = (value.double() for value in rows)
    found = sums(*rows).moments(False, "layer")
    share = (weights / weights.sum())[:, None]
    second = student.T @ (share * student)
    scale = 1 / float(second.norm())
    for value, wanted in (
        (found.share * found.student.double(), second * scale),
        (found.share * found.cross.double(), target.T @ (share * student) * scale),
        (found.student_mean, (share * student).sum(0)),
        (found.target_mean, (share * target).sum(0)),
    ):
        assert value.dtype == torch.float64
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6)
    assert found.scale == pytest.approx(scale, rel=1e-6)
    assert found.share * float(found.student.norm()) == pytest.approx(1.0)


def test_a_wide_input_is_summed_in_strips() -> None:
    """A matrix of several strips is as symmetric, and adds up to the same, as one that is whole."""
    torch.manual_seed(1)
    student, width = torch.randn(40, 2 * STRIP + 70), 2 * STRIP + 70
    found = sums(student, None, torch.ones(40)).moments(True, "layer")
    assert torch.equal(found.student, found.student.T)
    second = student.double().T @ student.double()
    total = torch.eye(width, dtype=torch.float64)
    accumulate(total, found.student, found.share)
    torch.testing.assert_close(
        total, torch.eye(width, dtype=torch.float64) + second / second.norm(), rtol=1e-5, atol=1e-7
    )


def test_without_targets_of_their_own_the_students_stand_for_them(
    rows: tuple[Tensor, Tensor, Tensor],
) -> None:
    student, _, weights = rows
    found, same = (
        sums(student, None, weights).moments(True, "layer"),
        sums(student, student, weights).moments(False, "layer"),
    )
    for name in ("student", "cross", "student_mean", "target_mean"):
        torch.testing.assert_close(getattr(found, name), getattr(same, name))


def test_a_row_twice_is_a_row_of_weight_two(rows: tuple[Tensor, Tensor, Tensor]) -> None:
    student, target, weights = rows
    twice = sums(
        torch.cat((student, student[:1])), torch.cat((target, target[:1])), torch.cat((weights, weights[:1]))
    ).moments(False, "layer")
    heavier = weights.clone()
    heavier[0] *= 2
    found = sums(student, target, heavier).moments(False, "layer")
    torch.testing.assert_close(found.cross, twice.cross)
    assert found.share == pytest.approx(twice.share)


def test_inputs_that_are_zero_throughout_weigh_nothing() -> None:
    found = sums(torch.zeros(5, 4), torch.ones(5, 4), torch.ones(5)).moments(False, "layer")
    assert found.scale == found.share == 0


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_an_error_that_says_whose(
    rows: tuple[Tensor, Tensor, Tensor], bad: float
) -> None:
    student, target, weights = rows
    spoiled = student.clone()
    spoiled[17, 3] = bad
    with pytest.raises(CalibrationError, match=r"^layer: its inputs are not finite on the calibration data"):
        sums(spoiled, target, weights).moments(False, "layer")
    with pytest.raises(CalibrationError, match=r"^layer: the expert's inputs are not finite"):
        sums(student, spoiled, weights).moments(False, "layer")
