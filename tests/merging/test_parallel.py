"""Work in threads: the order of results, what fails, and what the threads leave behind."""

import threading
import time

import pytest
import torch

from epmq_export.merging.parallel import mapped, once


@pytest.fixture(autouse=True)
def four_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epmq_export.threads.asked", lambda: 4)


def test_results_come_in_order_from_threads_in_which_torch_has_one() -> None:
    here = threading.get_ident()

    def job(item: int) -> tuple[int, int, bool]:
        time.sleep(0.01 if item == 0 else 0)
        return item, torch.get_num_threads(), threading.get_ident() == here

    assert [*mapped(job, range(9))] == [(item, 1, False) for item in range(9)]


def test_fewer_items_than_processors_have_several_each() -> None:
    assert [*mapped(lambda item: torch.get_num_threads(), range(2))] == [2, 2]


@pytest.mark.parametrize("before", [1, 2])
def test_torch_has_as_many_threads_afterwards_as_before(before: int) -> None:
    torch.set_num_threads(before)
    try:
        assert [*mapped(lambda item: item, range(3))] == [0, 1, 2]
        found = [torch.get_num_threads()]
        another = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        another.start()
        another.join()
        assert found == [before, before]
    finally:
        torch.set_num_threads(1)


def test_the_first_failure_is_raised_and_ends_the_work() -> None:
    begun = []

    def job(item: int) -> int:
        begun.append(item)
        if item in (3, 5):
            raise ValueError(f"item {item}")
        time.sleep(0.001)
        return item

    with pytest.raises(ValueError, match="item 3"):
        [*mapped(job, range(10000))]
    assert len(begun) < 10000


def test_what_is_computed_once_is_computed_once() -> None:
    calls = []

    @once
    def square(number: int) -> int:
        calls.append(number)
        time.sleep(0.01)
        return number * number

    assert [*mapped(lambda item: square(item % 2), range(20))] == [item % 2 for item in range(20)]
    assert sorted(calls) == [0, 1]
