"""What the table asks of a peer, and what a peer is given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from epmq_export.models import reference
from epmq_export.models.family import Family
from epmq_export.models.samples import Sample
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.source import TensorSource
from epmq_export.verification.tasks.bench import Outputs

Run = Callable[[Sequence[Sample]], Outputs]


@dataclass(frozen=True)
class Merge:
    """A merged model to quantise."""

    packed: Packed
    """In full precision, nothing on a grid: embeddings float16, as our own files store them, all else
    float32.
    """

    family: Family
    texts: Sequence[Sample]
    """The calibration texts of all tasks, without labels: those that our own methods are given. For a model
    of two halves with the merge's answers.
    """


@dataclass(frozen=True)
class Quantised:
    """What a peer made of a merge."""

    bits: float
    """Bits that a weight of a linear takes, scales and zero points included."""

    runs: Mapping[str, Run]
    """The ways to run it, by stage: `packed` runs its weights in PyTorch, `gguf` and `onnx` run its file in
    that format's runtime.
    """

    note: str | None = None
    """What it did not do as asked, or must be known of it, in a sentence without its full stop."""


class Peer(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def stages(self) -> Sequence[str]:
        """Return the stages of what it makes."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Return what decides its result, beside the merge and the versions: a finished row with others is
        measured again.
        """
        ...

    def missing(self) -> str | None:
        """Return in a sentence what it lacks on this machine; None where it can run."""
        ...

    def quantise(self, merge: Merge, folder: Path) -> Quantised:
        """Quantise a merge; `folder` exists, is empty, and holds what the runs read."""
        ...


def in_pytorch(merge: Merge, weights: Mapping[str, Tensor]) -> Run:
    """Return what runs the merged model with some of its tensors replaced, by the reference's own modules."""
    return partial(
        reference.outputs, merge.family, _Replaced(merge.packed, weights), device=torch.device("cpu")
    )


@dataclass(frozen=True)
class _Replaced:
    """A source with some of its tensors replaced."""

    source: TensorSource
    weights: Mapping[str, Tensor]

    def names(self) -> Sequence[str]:
        return self.source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.source.shape(name)

    def load(self, name: str) -> Tensor:
        return self.weights[name].clone() if name in self.weights else self.source.load(name)
