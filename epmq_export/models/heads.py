"""Heads: the ways in which a model's outputs are read as scores of classes."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from epmq_export.errors import InputError


class Reading(Protocol):
    """A way to read outputs as scores of classes."""

    def logits(self, outputs: Tensor) -> Tensor:
        """Return the scores of outputs [n, width], float [n, classes], differentiably."""
        ...


class AsLogits:
    """The reading of a language model, whose outputs are scores already: its classes are the tokens."""

    def logits(self, outputs: Tensor) -> Tensor:
        return outputs


@dataclass(frozen=True)
class Columns:
    """The reading of a model that has the heads of all tasks: some columns of its outputs are one task's
    scores already.
    """

    columns: slice

    def logits(self, outputs: Tensor) -> Tensor:
        """Return the scores of outputs [n, width], float [n, classes]. A head that gives a number stands
        beside 0, so that a softmax makes of it what a sigmoid does.
        """
        found = outputs[:, self.columns]
        return found if found.shape[1] > 1 else torch.cat([torch.zeros_like(found), found], 1)


@dataclass(frozen=True)
class Head:
    """A linear map from outputs to classes, or embeddings of classes to compare outputs with. It stays as it
    is while the model changes: it is the base's, or one that the user gives.
    """

    weight: Tensor
    """float32 [classes, width]. Without a bias, its rows may have any length, because only their direction
    counts.
    """

    bias: Tensor | None = None
    """The bias of a linear head, float32 [classes]. None for embeddings of label texts, which are compared
    with outputs by cosine.
    """

    scale: float = 20.0
    """The factor that turns cosines into logits. Sentence encoders are usually trained with 20."""

    def logits(self, outputs: Tensor) -> Tensor:
        """Return the scores of outputs [n, width], float [n, classes] in the outputs' dtype, differentiably.

        Raises InputError for outputs of another width.
        """
        self.require_width(outputs)
        weight = self.weight.to(outputs.device, outputs.dtype)
        if self.bias is not None:
            return outputs @ weight.T + self.bias.to(outputs.device, outputs.dtype)
        normalised = torch.nn.functional.normalize
        result: Tensor = self.scale * normalised(outputs, dim=1) @ normalised(weight, dim=1).T
        return result

    def to(self, device: torch.device) -> "Head":
        """Return it on a device."""
        bias = None if self.bias is None else self.bias.to(device)
        return replace(self, weight=self.weight.to(device), bias=bias)

    def require_width(self, outputs: Tensor) -> None:
        """Raise InputError for outputs that are not as wide as the head."""
        if outputs.ndim == 2 and outputs.shape[1] != self.weight.shape[1]:
            raise InputError(
                f"outputs are {outputs.shape[1]} wide and the head {self.weight.shape[1]}, expected one width"
            )
