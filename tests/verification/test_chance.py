"""Scores that tell nothing of a file."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from epmq_export.data.task import Task
from epmq_export.verification.chance import by_chance
from epmq_export.verification.statistics.lines import Graded, Ranked, Right


def task(truth: Sequence[int] | None = None, expected: Sequence[str] | None = None) -> Task:
    right = None if truth is None else torch.tensor(truth)
    return Task("t", "expert", [], [], right, ["a", "b"], [], expected=expected)


@pytest.mark.parametrize("numbers", [[1.0, 1.0, 1.0], [3.0, 2.0, 1.0]])
def test_numbers_in_no_order(numbers: list[float]) -> None:
    told = by_chance(task(expected=["1", "2", "3"]), Ranked.of(numbers, [1, 2, 3]))
    assert told is not None and told.startswith("task t: the reference's rank correlation is ")


def test_numbers_in_some_order_tell() -> None:
    assert by_chance(task(expected=["1", "2", "3"]), Ranked.of([1, 3, 2], [1, 2, 3])) is None


@pytest.mark.parametrize(
    ("given", "right", "told"),
    [
        (
            task(truth=[0, 0, 1, 1]),
            [1, 1, 0, 0],
            "right on 50.0 % of the lines, and one answer to all of them",
        ),
        (task(truth=[0, 0, 1, 1]), [1, 1, 1, 0], None),
        (task(expected=["x", "y", "z", "w"]), [0, 0, 0, 0], "right on 0.0 % of the lines"),
        (task(expected=["x", "y", "z", "w"]), [1, 1, 0, 0], None),
        (task(), [0, 0, 0, 0], None),  # It agrees with its expert, or not.
    ],
)
def test_answers_that_are_right_by_chance(given: Task, right: list[int], told: str | None) -> None:
    found = by_chance(given, Right(np.array(right, bool)))
    assert found is None if told is None else found is not None and told in found


def test_distances_have_no_chance() -> None:
    assert by_chance(task(), Graded.each(np.zeros(3))) is None
