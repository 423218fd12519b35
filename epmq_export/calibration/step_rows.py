"""The rows of a step's input that its statistics are of: the student's, and those of a task's expert at the
same places.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from epmq_export.calibration.expert_energies import ExpertEnergies
from epmq_export.calibration.kept_batch import KeptBatch
from epmq_export.models.activations import Activations
from epmq_export.models.blocks import inputs_of, load_block, load_module
from epmq_export.models.family import Block
from epmq_export.models.mixture import Mixture, Place, place_of
from epmq_export.models.replay import Replay
from epmq_export.tensors.source import TensorSource


class Rows(NamedTuple):
    """The rows of one batch that count."""

    student: Tensor
    """[n, in]."""

    expert: Tensor | None
    """The task's expert's, [n, in], or None where no expert is run."""

    weights: Tensor
    """How much each counts, float32 [n], on the processor."""


@dataclass(frozen=True)
class StepRows:
    """The inputs of a block's steps.

    A linear of a mixture sees the rows that the student's router gives its expert. The fine-tuned expert's
    are those at the same places, wherever its own router would send them: each row is compared with what the
    same linear should make of it.
    """

    block: Block
    student: nn.Module
    run: Callable[[nn.Module, str, int, int], Tensor]
    """A function that runs a module on a stream's hidden states of task t's batch b."""

    replay: Replay
    kept: Activations
    batches: Sequence[Sequence[KeptBatch]]
    sources: Sequence[TensorSource]
    """The experts of the tasks."""

    energies: ExpertEnergies
    experts_run: bool

    def of(self, step: tuple[str, ...], t: int) -> Iterator[Rows]:
        """Yield the rows of a step, a batch of task t at a time. The steps before it must be final."""
        place = place_of(self.student, step[0])
        return self._of_all(step, t) if place is None else self._of_routed(step, place, t)

    def drop(self, t: int, b: int) -> None:
        """Forget what was kept of a batch for mixtures."""
        for mixture in self._mixtures:
            for what in ("given", "shares"):
                self.kept.drop((what, mixture, t, b))

    @property
    def _mixtures(self) -> list[str]:
        return [path for path, module in self.student.named_modules() if isinstance(module, Mixture)]

    def _of_all(self, step: tuple[str, ...], t: int) -> Iterator[Rows]:
        expert = _Expert(self, t)
        for b, batch in enumerate(self.batches[t]):
            value = self._input(step, step[0], t, b)
            # Which rows count is known on the processor, so that it need not wait for a GPU to tell it.
            weights = self.block.row_weights(step, batch.get(), (value.shape[0], value.shape[1])).flatten()
            counted = (weights > 0).nonzero()[:, 0]
            given = self._at(counted, expert.input(step[0], b)) if self.experts_run else None
            yield Rows(self._at(counted, value), given, weights[counted])

    @torch.no_grad()
    def _of_routed(self, step: tuple[str, ...], place: Place, t: int) -> Iterator[Rows]:
        module, expert = self.student.get_submodule(place.module), _Expert(self, t)
        for b, batch in enumerate(self.batches[t]):
            value, shares = self._given(step, place.mixture, t, b)
            weights = self.block.row_weights(step, batch.get(), (value.shape[0], value.shape[1])).flatten()
            counted = ((weights > 0) & (shares[:, place.expert] > 0)).nonzero()[:, 0]
            weights, given = weights[counted], None
            if self.experts_run and len(counted):
                own = expert.part(place.module)
                given = _within(own, place.path, self._at(counted, expert.input(place.mixture, b)))
                for path in step:
                    linear = own.get_submodule(path.removeprefix(f"{place.module}."))
                    assert isinstance(linear, nn.Linear)
                    self.energies.add(path, t, linear(given), linear, weights)
            student = _within(module, place.path, self._at(counted, value))
            yield Rows(student, student if self.experts_run and given is None else given, weights)

    def _at(self, counted: Tensor, value: Tensor) -> Tensor:
        """Return rows of [batch, length, in], on the device."""
        return value.flatten(0, 1)[counted.to(value.device, non_blocking=True)].to(self.replay.device)

    def _input(self, step: tuple[str, ...], path: str, t: int, b: int) -> Tensor:
        """Return the student's input of the submodule at `path`, before which only final steps run."""
        with self.replay.before(self.block.steps.index(step), t, b):
            (value,), _ = inputs_of(
                self.student, [path], partial(self.run, self.student, "student", t, b), stop=True
            )
        return value

    def _given(self, step: tuple[str, ...], mixture: str, t: int, b: int) -> tuple[Tensor, Tensor]:
        """Return the student's input of a mixture, and the shares of its experts in each row [rows, experts].
        They are computed once for all of its steps.
        """
        given, shares = ("given", mixture, t, b), ("shares", mixture, t, b)
        if not self.kept.has(given):
            value = self._input(step, mixture, t, b)
            found = self.student.get_submodule(mixture)
            assert isinstance(found, Mixture)
            self.kept.put(given, value)
            self.kept.put(shares, found.shares(value.flatten(0, 1)).cpu())
        return self.kept.get(given), self.kept.get(shares)


class _Expert:
    """The inputs of one task's expert in the current block: as they were kept or, where memory had no room
    for them, computed again.
    """

    def __init__(self, rows: StepRows, t: int) -> None:
        self._rows, self._t = rows, t
        self._modules: dict[str, nn.Module] = {}

    def input(self, path: str, b: int) -> Tensor:
        """Return the input of a submodule, [batch, length, in]."""
        rows, t = self._rows, self._t
        key = ("input", path, t, b)
        if rows.kept.has(key):
            return rows.kept.get(key)
        if "" not in self._modules:
            self._modules[""] = load_block(rows.block, rows.sources[t], rows.replay.device)
        (value,), _ = inputs_of(
            self._modules[""], [path], partial(rows.run, self._modules[""], "expert", t, b), stop=True
        )
        return value

    def part(self, path: str) -> nn.Module:
        """Return a submodule with the expert's weights, and nothing else of the block."""
        if path not in self._modules:
            rows = self._rows
            # A block of a mixture takes its time to build, and this is asked for by each expert and task.
            like = deepcopy(rows.student.get_submodule(path))
            prefix = f"{rows.block.prefix}{path}."
            self._modules[path] = load_module(like, prefix, rows.sources[self._t], rows.replay.device)
        return self._modules[path]


def _within(module: nn.Module, path: str, rows: Tensor) -> Tensor:
    """Return the inputs of a submodule where the module is given these rows."""
    (value,), _ = inputs_of(module, [path], lambda: module(rows), stop=True)
    return value
