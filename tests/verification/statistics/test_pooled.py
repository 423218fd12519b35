"""Tasks together, the worst of them, and the decision."""

import math

import numpy as np
import pytest

from epmq_export.verification.statistics.decision import (
    Outcome,
    decide,
    resolution,
    rounded_up,
    standard_error,
    times_the_lines,
)
from epmq_export.verification.statistics.estimate import Z_BOUND, Z_INTERVAL, Estimate, Interval
from epmq_export.verification.statistics.pooled import holm, pooled
from epmq_export.verification.statistics.proportions import Drop, PairedTable


def normal(value: float, error: float) -> Estimate:
    """Return the estimate with a standard error."""
    ends = (Interval(value - z * error, value + z * error) for z in (Z_INTERVAL, Z_BOUND))
    return Estimate(value, *ends)


def test_standard_errors_are_added_in_squares() -> None:
    found = pooled([normal(1, 0.3), normal(3, 0.4)])
    expected = normal(2, 0.25)
    assert found.value == 2 and found.interval == pytest.approx(expected.interval)
    assert found.bounds == pytest.approx(expected.bounds)


def test_holms_correction() -> None:
    """The example of the paper's procedure: 0.01, 0.04, 0.03, 0.005 of four."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []


def test_decisions() -> None:
    assert decide(normal(0.0, 0.005), 0.02) is Outcome.PASS
    assert decide(normal(0.05, 0.005), 0.02) is Outcome.FAIL
    assert decide(normal(0.0, 0.05), 0.02) is decide(normal(0.03, 0.05), 0.02) is Outcome.UNDECIDED
    # A bound at the margin passes, by whatever bit the sum of the two is above it.
    assert decide(Estimate(0.0, Interval(0, 0.1), Interval(0, 0.1 + 0.2)), 0.3) is Outcome.PASS


def test_lines_that_would_decide() -> None:
    """The textbook's number: (1.645 + 0.842)^2 of them for a margin of one standard deviation is 6.2."""
    error = standard_error(normal(0.0, 1 / math.sqrt(100)))
    assert resolution(error) == pytest.approx(0.2486, abs=1e-4)
    assert 100 * times_the_lines(error, 1.0) == pytest.approx(6.183, abs=1e-3)
    assert [rounded_up(lines) for lines in (0.2, 7, 38.2, 100, 101, 1544, 160_001)] == [
        1, 7, 39, 100, 110, 1600, 170_000,
    ]  # fmt: skip


def _passes(lines: int, flips: float, drop: float, times: int, seed: int) -> float:
    """Return how often six tasks of so many lines pass at a margin of 0.02."""
    draw = np.random.default_rng(seed)
    shares = [(flips + drop) / 2, (flips - drop) / 2, 1 - flips]
    tables = draw.multinomial(lines, shares, (times, 6)).tolist()
    outcomes = [
        decide(Drop([PairedTable(lines, b, c) for b, c, _ in tasks]).estimate, 0.02) for tasks in tables
    ]
    return sum(outcome is Outcome.PASS for outcome in outcomes) / times


def test_a_loss_at_the_margin_passes_once_in_twenty() -> None:
    assert 0 < _passes(100, 0.05, 0.02, 200, seed=1) <= 0.09
    assert 0 < _passes(400, 0.10, 0.02, 200, seed=2) <= 0.09


def test_as_many_lines_as_are_said_to_decide_do_so_four_times_in_five() -> None:
    drop = Drop([PairedTable(100, 4, 4)] * 6)
    enough = 100 * times_the_lines(drop.standard_error(0.02), 0.02)
    assert 0.7 <= _passes(round(enough), 0.08, 0.0, 100, seed=3) <= 0.93
