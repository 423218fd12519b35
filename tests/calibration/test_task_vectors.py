"""What is said of the task vectors before the work."""

import pytest
import torch

from epmq_export.calibration.task_vectors import TaskVectors, task_vectors
from epmq_export.tensors.low_rank import Change, LowRank
from tests.tiny.in_memory import InMemory

BASE = InMemory({"a": torch.tensor([[3.0, 4.0]]), "b": torch.zeros(2)})


def moved(a: float, b: float) -> InMemory:
    """The base with an entry of each tensor moved."""
    return InMemory({"a": torch.tensor([[3.0 + a, 4.0]]), "b": torch.tensor([b, 0.0])})


def test_lengths_are_shares_of_the_base_and_orthogonal_ones_have_nothing_in_common() -> None:
    found = task_vectors(BASE, [moved(0.5, 0), moved(0, 1)], ["a", "b"])
    assert found == TaskVectors(base=5.0, lengths=[0.5, 1.0], distinct=[1.0, 1.0], merged=0.0)
    said = "x 10 %, y 20 % of the base's length, 0 % of them in common"
    assert found.sentence(["x", "y"]) == said
    assert found.warnings(["x", "y"]) == []


def test_lengths_that_differ_much_are_told_with_the_names() -> None:
    found = task_vectors(BASE, [moved(0.5, 0), moved(0, 2), moved(0, 1)], ["a"])
    assert found.warnings(["x", "y", "z"]) == []  # Of length 0 nothing is left to drown.
    found = task_vectors(BASE, [moved(0.5, 0), moved(0, 2), moved(0, 1)], ["a", "b"])
    (told,) = [text for text in found.warnings(["x", "y", "z"]) if "length" in text]
    assert "4.0 times" in told and "y has the longest" in told and "x the shortest" in told


def test_experts_that_are_one_are_told() -> None:
    found = task_vectors(BASE, [moved(1, 0), moved(0, 1), moved(1, 0)], ["a", "b"])
    assert found.distinct == [0.5, 1.0, 0.5]
    (told,) = found.warnings(["x", "y", "z"])
    assert "each of x, z" in told
    assert "33 % of them in common" in found.sentence(["x", "y", "z"])


class Adapted(InMemory):
    """A base with a product of factors added to its matrix "a"; it says so."""

    def __init__(self, base: InMemory, product: LowRank) -> None:
        self._base, self._product = base, product
        super().__init__({"a": base.load("a") + product.dense()})

    def low_rank_change(self, name: str) -> Change:
        return Change(lambda: self._base.load(name), self._product)


def test_of_adapters_the_same_is_said_by_their_factors() -> None:
    torch.manual_seed(0)
    base = InMemory({"a": torch.randn(6, 5)})
    experts = [Adapted(base, LowRank(torch.randn(6, rank), torch.randn(rank, 5))) for rank in (2, 1, 3)]
    plain = [InMemory({"a": expert.load("a")}) for expert in experts]
    by_factors, by_tensors = (task_vectors(base, each, ["a"]) for each in (experts, plain))
    assert by_factors.lengths == pytest.approx(by_tensors.lengths, rel=1e-6)
    assert by_factors.distinct == pytest.approx(by_tensors.distinct, rel=1e-5)
    assert by_factors.lengths != by_tensors.lengths  # W_0 + P - W_0 is rounded.
    # Of another base, factors say nothing.
    other = InMemory({"a": base.load("a") + 1})
    assert task_vectors(other, experts, ["a"]) == task_vectors(other, plain, ["a"])


def test_of_a_base_of_zeros_no_share_is_said() -> None:
    nothing = InMemory({"a": torch.zeros(1, 2)})
    found = task_vectors(nothing, [nothing], ["a"])
    assert found.sentence(["x"]) == "x 0 % of the base's length, 0 % of them in common"
    assert found.warnings(["x"]) == []
