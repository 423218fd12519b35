"""Intervals and tests of paired proportions: published examples, and scipy on random tables."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from epmq_export.verification.statistics.estimate import Z_BOUND, Z_INTERVAL, Interval
from epmq_export.verification.statistics.proportions import Drop, PairedTable, proportion


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Tango 1998, section 6.2: sleep of patients before and after treatment.
        (PairedTable(32, 9, 3), -0.027, 0.390),
        # Fagerland, Lydersen & Laake, Statistical Analysis of Contingency Tables (2017), chapter 8: airways
        # before and after a transplantation, and complete response before and after a therapy.
        (PairedTable(21, 1, 7), -0.517, -0.026),
        (PairedTable(161, 6, 16), -0.1240, -0.0054),
    ],
)
def test_published_intervals(table: PairedTable, low: float, high: float) -> None:
    assert table.drop.interval == (pytest.approx(low, abs=6e-4), pytest.approx(high, abs=6e-4))


def test_a_published_test_of_non_inferiority() -> None:
    """Tango 1998, section 6.1: two ways to disinfect lenses; 44 lenses, one is clean after one way only."""
    lenses = PairedTable(44, 0, 1)
    # He tests that the new way is worse by 0.1, in the other direction.
    assert Drop([PairedTable(44, 1, 0)]).score(0.1) == pytest.approx(-1.709, abs=5e-4)
    assert lenses.drop.bounds.low == pytest.approx(-0.096, abs=5e-4)


tables = st.integers(1, 400).flatmap(
    lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n)).filter(lambda t: t[1] + t[2] <= n)
)


@settings(max_examples=40)
@given(tables)
def test_ends_are_where_the_score_is_the_quantile(counts: tuple[int, int, int]) -> None:
    table = PairedTable(*counts)
    drop = table.drop
    assert -1 <= drop.interval.low <= drop.bounds.low <= drop.value <= drop.bounds.high
    assert drop.bounds.high <= drop.interval.high <= 1
    for interval, z in ((drop.interval, Z_INTERVAL), (drop.bounds, Z_BOUND)):
        for end, sign in ((interval.low, 1), (interval.high, -1)):
            if abs(end) < 0.999:
                assert Drop([table]).score(end) == pytest.approx(sign * z, abs=1e-6)


@settings(max_examples=40)
@given(tables)
def test_the_two_models_can_be_exchanged(counts: tuple[int, int, int]) -> None:
    n, b, c = counts
    one, other = PairedTable(n, b, c).drop, PairedTable(n, c, b).drop
    assert one.interval == (pytest.approx(-other.interval.high), pytest.approx(-other.interval.low))
    assert PairedTable(n, b, c).mcnemar == PairedTable(n, c, b).mcnemar


def _likeliest(n: int, b: int, c: int, drop: float) -> float:
    """Return the share that only the file has right, by maximising the likelihood of the table."""

    def unlikely(share: float) -> float:
        parts = ((b, share + drop), (c, share), (n - b - c, 1 - 2 * share - drop))
        return -sum(count * math.log(max(part, 1e-300)) for count, part in parts if count)

    found = optimize.minimize_scalar(
        unlikely, bounds=(max(0.0, -drop), (1 - drop) / 2), method="bounded", options={"xatol": 1e-13}
    )
    return float(found.x)


def test_a_hundred_random_tables_agree_with_scipy() -> None:
    """The interval is that of the score test whose nuisance parameter is found by maximising the likelihood,
    and McNemar's p that of scipy's binomial test.
    """
    draw = np.random.default_rng(5)
    for _ in range(100):
        n = int(draw.integers(5, 300))
        b, c, _rest = draw.multinomial(n, draw.dirichlet([1, 1, 6])).tolist()
        table = PairedTable(n, b, c)
        if b + c:
            assert table.mcnemar == pytest.approx(stats.binomtest(b, b + c).pvalue, rel=1e-9)
        for end, sign in zip(table.drop.interval, (1, -1), strict=True):
            share = _likeliest(n, b, c, end)
            variance = n * (2 * share + end * (1 - end))
            z = (b - c - n * end) / math.sqrt(variance)
            assert z == pytest.approx(sign * stats.norm.ppf(0.975), abs=2e-4)
        right = b + 1
        expected = stats.binomtest(right, n + 1).proportion_ci(method="wilson")
        assert proportion(right, n + 1).interval == pytest.approx((expected.low, expected.high))


def test_no_flips_are_no_proof() -> None:
    """The bound is where z^2 = n d / (1 - d)."""
    drop = PairedTable(100, 0, 0).drop
    assert drop.value == 0 and drop.bounds.high == pytest.approx(Z_BOUND**2 / (100 + Z_BOUND**2))
    assert PairedTable(100, 0, 0).mcnemar == 1 and PairedTable(100, 0, 0).flips == 0
    assert PairedTable(10**6, 0, 0).drop.bounds.high < 3e-6


def test_tasks_without_flips_are_as_one_of_all_their_lines() -> None:
    assert Drop([PairedTable(100, 0, 0)] * 6).estimate.bounds.high == pytest.approx(
        PairedTable(600, 0, 0).drop.bounds.high
    )


def test_the_drop_of_several_tasks() -> None:
    """Tasks weigh alike, whatever their lines; a task of many lines hardly adds to the standard error."""
    tables = [PairedTable(100, 8, 2), PairedTable(10**7, 0, 0)]
    found, alone = Drop(tables).estimate, tables[0].drop
    assert found.value == pytest.approx(0.03)
    assert found.bounds.high - 0.03 == pytest.approx((alone.bounds.high - 0.06) / 2, rel=0.2)


def test_certain_and_impossible_drops() -> None:
    all_lost = PairedTable(10, 10, 0)
    assert all_lost.drop.value == 1 and all_lost.drop.interval.high == pytest.approx(1)
    drop = Drop([all_lost])
    assert drop.score(1.0) == 0 and drop.score(-1.0) == math.inf and drop.p_beyond(0.02) < 1e-3
    assert all_lost.mcnemar == pytest.approx(2 / 2**10)
    assert PairedTable(200_000, 100_100, 99_900).mcnemar == pytest.approx(0.6563, abs=1e-3)


def test_p_of_a_margin_agrees_with_the_bound() -> None:
    table = PairedTable(300, 20, 6)
    drop = Drop([table])
    assert drop.p_beyond(table.drop.bounds.low) == pytest.approx(0.05)
    assert drop.p_beyond(0.0) == pytest.approx(1 - NormalDist().cdf(14 / math.sqrt(26)))


def test_a_table_of_answers() -> None:
    reference, file = np.array([1, 1, 1, 0, 0], bool), np.array([1, 0, 0, 1, 0], bool)
    table = PairedTable.of(reference, file)
    assert table == PairedTable(lines=5, only_reference=2, only_file=1)
    assert table.flips == pytest.approx(0.6) and table.drop.value == pytest.approx(0.2)


def test_shares_of_all_and_none() -> None:
    assert proportion(0, 20).interval.low == 0 and proportion(20, 20).interval.high == 1
    # Wilson's interval of 0 of n ends at z^2 / (n + z^2).
    assert proportion(0, 20).interval == Interval(0, pytest.approx(Z_INTERVAL**2 / (20 + Z_INTERVAL**2)))
