"""The bootstrap over lines, beside scipy's with the same draws."""

import numpy as np
import pytest
from scipy import stats

from epmq_export.verification.statistics import bootstrap
from epmq_export.verification.statistics.bootstrap import SEED, Numbers, rough, smooth
from epmq_export.verification.statistics.lines import Graded, Ranked, Right
from epmq_export.verification.statistics.ranks import rank_correlation


def scipys(
    statistic: object, *columns: Numbers, method: str, confidence: float = 0.95
) -> tuple[float, float]:
    found = stats.bootstrap(
        columns,
        statistic,
        paired=True,
        vectorized=False,
        n_resamples=bootstrap.RESAMPLES,
        confidence_level=confidence,
        method=method,
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return found.low, found.high


def test_a_mean_has_scipys_interval() -> None:
    values = np.random.default_rng(1).exponential(size=70)
    found = Graded.each(values).estimate
    assert found.value == pytest.approx(values.mean())
    assert found.interval == pytest.approx(scipys(np.mean, values, method="BCa"))
    assert found.bounds == pytest.approx(scipys(np.mean, values, method="BCa", confidence=0.9))


def test_a_drop_of_rank_correlation_has_scipys_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    draw = np.random.default_rng(2)
    right = draw.normal(size=40)
    ours, theirs = (np.round(right + size * draw.normal(size=40), 1) for size in (1.0, 0.5))

    def drop(expected: Numbers, one: Numbers, other: Numbers) -> float:
        return float(stats.spearmanr(other, expected)[0] - stats.spearmanr(one, expected)[0])

    found = Ranked.of(ours, right).drop(Ranked.of(theirs, right))
    assert found.value == pytest.approx(drop(right, ours, theirs)) and found.value > 0
    assert found.interval == pytest.approx(scipys(drop, right, ours, theirs, method="BCa"))
    assert Ranked.of(ours, right).estimate.value == pytest.approx(rank_correlation(ours, right))


def test_a_percentile_has_scipys_interval() -> None:
    values = np.random.default_rng(3).exponential(size=120)

    def least(drawn: Numbers) -> float:
        return float(np.percentile(drawn, 99, method="inverted_cdf"))

    found = Graded.each(values).percentile(99)
    assert found.value == least(values)
    assert found.interval == pytest.approx(scipys(least, values, method="percentile"))


def test_lines_are_drawn_and_not_their_tokens() -> None:
    """Three lines whose tokens are alike vary as three numbers do, however many tokens each has."""
    few = Graded(np.array([1.0, 1, 5, 5, 9, 9]), np.array([2, 2, 2]))
    many = Graded(np.repeat([1.0, 5, 9], 100), np.array([100, 100, 100]))
    assert few.estimate == many.estimate and few.estimate.interval.low < 3
    assert few.percentile(99) == many.percentile(99)
    # A line of more tokens weighs as much more.
    assert Graded(np.array([0.0, 1, 1, 1]), np.array([1, 3])).estimate.value == 0.75


def test_what_never_varies_has_no_width() -> None:
    found = Graded.each(np.full(30, 0.25)).estimate
    assert found.value == 0.25 and found.interval == found.bounds == (0.25, 0.25)
    assert Graded.each(np.array([3.0])).estimate.interval == (3, 3)
    assert Right(np.ones(3, bool)).drop(Right(np.ones(3, bool))).interval.high > 0.3


def test_draws_are_the_same_each_time_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    values = Graded.each(np.random.default_rng(4).normal(size=50))
    once = values.estimate
    assert values.estimate == once
    monkeypatch.setattr(bootstrap, "_BLOCK", 130)
    again = values.estimate
    assert again.interval == pytest.approx(once.interval) and again.bounds == pytest.approx(once.bounds)


def test_intervals_cover_what_they_should() -> None:
    """Count the intervals that hold the true mean, 1: about 190 of 200 samples of 60 skewed numbers do."""
    draw = np.random.default_rng(6)
    held = 0
    for _ in range(200):
        interval = Graded.each(draw.exponential(size=60)).estimate.interval
        held += interval.low <= 1 <= interval.high
    assert 178 <= held <= 198


def test_nothing_but_a_number_of_lines_is_asked_for() -> None:
    assert smooth(lambda counts: counts @ np.arange(5.0) / counts.sum(1), 5).value == 2
    assert rough(lambda counts: counts.max(1), 5).value == 1
