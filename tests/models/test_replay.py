"""Outputs of finished modules stand for another pass of them, and never where they could be wrong."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from epmq_export.models.activations import Activations
from epmq_export.models.blocks import inputs_of
from epmq_export.models.family import Batch
from epmq_export.models.replay import Replay

CPU = torch.device("cpu")


class Counted(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 4)
        self.times = 0

    def forward(self, hidden: Tensor) -> Tensor:
        self.times += 1
        return super().forward(hidden)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = Counted(), Counted()

    def forward(self, hidden: Tensor) -> tuple[Tensor, None]:
        return self.two(torch.tanh(self.one(hidden))), None


class Body(nn.Module):
    """`change` says what the block does with what its modules make."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.change = change
        self.inner, self.last, self.end = Inner(), Counted(), Counted()

    def forward(self, hidden: Tensor) -> Tensor:
        made = self.inner(hidden)[0]
        if self.change == "in place":
            made = made.add_(hidden)
        if self.change == "twice":
            made = made + self.inner(made)[0]
        result: Tensor = self.end(torch.relu(self.last(made)) + hidden)
        return result


@dataclass(frozen=True)
class Toy:
    change: str = ""
    name: str = "toy"
    prefix: str = "toy."
    steps: tuple[tuple[str, ...], ...] = (("inner.one",), ("inner.two",), ("last",), ("end",))

    def build(self) -> nn.Module:
        return Body(self.change)

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        result: Tensor = module(hidden)
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return torch.ones(shape)


def input_of(module: nn.Module, path: str, hidden: Tensor, stop: bool) -> Tensor:
    """The last input of a submodule that runs once, or several times where nothing stops it."""
    seen, _ = inputs_of(module, [path], lambda: module(hidden), stop)
    return seen[-1].clone()


def walked(change: str, bound: int) -> tuple[list[Tensor], list[int]]:
    """The input of every step and the block's output, where each step's weights change after its input was
    seen; and how often each linear ran.
    """
    torch.manual_seed(0)
    toy = Toy(change)
    module, hidden = toy.build().requires_grad_(False), torch.randn(2, 3, 4)
    seen = []
    with Activations(bound) as kept:
        replay = Replay(kept, toy, module, CPU)
        for index, step in enumerate(toy.steps):
            with replay.before(index, 0, 0):
                seen.append(input_of(module, step[0], hidden, stop=change != "twice"))
            module.get_submodule(step[0]).get_parameter("weight").data += 0.1
        with replay.before(len(toy.steps), 0, 0):
            seen.append(toy.run(module, hidden, {}))
        replay.drop(0, 0)
        assert kept.held == 0
        assert not any("forward" in each.__dict__ for each in module.modules())
    return seen, [each.times for each in module.modules() if isinstance(each, Counted)]


@pytest.mark.parametrize("change", ["", "in place", "twice"])
def test_every_step_sees_what_it_would_see_from_the_start(change: str) -> None:
    (kept, _), (again, _) = walked(change, 1 << 20), walked(change, 0)
    assert len(kept) == 5 and all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))


def test_a_finished_linear_runs_once() -> None:
    assert walked("", 1 << 20)[1] == [1, 1, 1, 1]
    assert walked("", 0)[1] == [4, 3, 2, 1]
