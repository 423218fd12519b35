"""Scores of a model's outputs, from the outputs and the truth alone."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from epmq_export.errors import InputError


class Reading(Protocol):
    """How outputs are read as scores of classes."""

    def logits(self, outputs: Tensor) -> Tensor:
        """float [n, classes] of outputs [n, width]; differentiable."""
        ...


class AsLogits:
    """Of a language model, whose outputs are scores already: its classes are the tokens."""

    def logits(self, outputs: Tensor) -> Tensor:
        return outputs


@dataclass(frozen=True)
class Head:
    """What turns outputs into classes. It stays as it is while the model changes: the base's, or one that the
    user gives.
    """

    weight: Tensor
    """float32 [classes, width]; without a bias rows of any length, since only their direction counts."""

    bias: Tensor | None = None
    """float32 [classes], of a linear head; None for embeddings of label texts, which outputs are compared
    with by cosine.
    """

    scale: float = 20.0
    """Of cosines, where they become logits; 20 is what sentence encoders are usually trained with."""

    def logits(self, outputs: Tensor) -> Tensor:
        """float [n, classes] of outputs [n, width], in the outputs' dtype; differentiable. InputError for
        outputs of another width.
        """
        self.require_width(outputs)
        weight = self.weight.to(outputs.device, outputs.dtype)
        if self.bias is not None:
            return outputs @ weight.T + self.bias.to(outputs.device, outputs.dtype)
        normalised = torch.nn.functional.normalize
        result: Tensor = self.scale * normalised(outputs, dim=1) @ normalised(weight, dim=1).T
        return result

    def require_width(self, outputs: Tensor) -> None:
        if outputs.ndim == 2 and outputs.shape[1] != self.weight.shape[1]:
            raise InputError(
                f"outputs are {outputs.shape[1]} wide and the head {self.weight.shape[1]}, expected one width"
            )


def predict(outputs: Tensor, head: Head) -> Tensor:
    """The class of the largest logit, int64 [n]; outputs float [n, d]. The first of equals."""
    head.require_width(outputs)  # before their values are looked at
    outputs = _finite(outputs, "an output") if head.bias is not None else _unit(outputs, "an output")
    if head.bias is None:
        _unit(head.weight, "a class of the head")
    result: Tensor = head.logits(outputs).argmax(1)
    return result


def accuracy(outputs: Tensor, head: Head, truth: Tensor) -> float:
    """Share of right predictions, 0..1; truth int64 [n]."""
    found = predict(outputs, head)
    if found.shape != truth.shape:
        raise InputError(
            f"found {len(found)} outputs for {len(truth)} labelled samples, expected one for each"
        )
    return float((found == truth).double().mean())


def agreement(outputs: Tensor, reference: Tensor) -> float:
    """Mean cosine of the rows of two float [n, d], -1..1."""
    if outputs.shape != reference.shape:
        raise InputError(
            f"found outputs {list(outputs.shape)} and a reference {list(reference.shape)}, expected one shape"
        )
    return float((_unit(outputs, "an output") * _unit(reference, "a reference output")).sum(1).mean())


def _finite(rows: Tensor, what: str) -> Tensor:
    """Rows in float64; InputError where one is not finite, or where there is none."""
    if rows.ndim != 2 or not len(rows):
        raise InputError(f"{what} was expected in each row, found an array of shape {list(rows.shape)}")
    rows = rows.double()
    bad = ~torch.isfinite(rows).all(1)
    if bool(bad.any()):
        raise InputError(
            f"{what} is not finite: row {int(bad.nonzero()[0])}, the first of {int(bad.sum())} of {len(rows)}"
        )
    return rows


def _unit(rows: Tensor, what: str) -> Tensor:
    """Rows of length 1, in float64. A row that has no direction is an error: its cosine would be a number
    that says nothing.
    """
    rows = _finite(rows, what)
    length = rows.norm(dim=1, keepdim=True)
    if bool((length == 0).any()):
        raise InputError(
            f"{what} is all zero: row {int((length[:, 0] == 0).nonzero()[0])}, so it has no cosine"
        )
    unit: Tensor = rows / length
    return unit
