"""What each of several processes is given."""

from itertools import pairwise

import pytest

from epmq_export.ranks import ALONE, Ranks, here


def test_every_row_belongs_to_one_rank() -> None:
    for count in (0, 1, 2, 7, 64):
        for ranks in range(1, 6):
            parts = [range(count)[Ranks(index, ranks).share(count)] for index in range(ranks)]
            assert [row for part in parts for row in part] == [*range(count)]
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_what_one_rank_owns_stands_together_and_costs_a_share() -> None:
    costs = [1.0, 5.0, 2.0, 2.0, 4.0, 1.0, 3.0, 2.0]
    owners = Ranks(0, 4).owners(costs)
    assert all(0 <= after - before <= 1 for before, after in pairwise(owners)) and set(owners) == {0, 1, 2, 3}
    each = [
        sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(4)
    ]
    assert max(each) <= sum(costs) / 4 + max(costs) / 2
    assert Ranks(0, 3).owners([0.0, 0.0]) == [0, 0] and ALONE.owners(costs) == [0] * 8


def test_only_torchrun_says_that_there_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster's own variables do not make a job wait for processes that nobody has started."""
    for name, value in (("RANK", 3), ("WORLD_SIZE", 8), ("LOCAL_RANK", 1), ("LOCAL_WORLD_SIZE", 2)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert here() == ALONE
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    assert here() == Ranks(index=3, count=8, local=1, beside=2)
