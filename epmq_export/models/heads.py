"""How a model's outputs are read as scores of classes."""

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
