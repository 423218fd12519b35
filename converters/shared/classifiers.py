"""The heads of classifiers: modules that make scores of one row, which they read off the hidden state of a
text or a picture, such as the first token's.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from epmq_export.errors import InputError
from epmq_export.models.classifiers import PREFIX, WEIGHTS, Classifier
from epmq_export.models.family import Batch
from epmq_export.models.shapes import shapes_alone
from epmq_export.tensors.safetensors_file import SafetensorsFile


def head_of(**parts: nn.Module) -> nn.Module:
    """Return a head of parts in their order, whose names begin those of its tensors."""
    return nn.Sequential(OrderedDict(parts))


@dataclass(frozen=True)
class Scored:
    """The scores of each sample by all classifiers, one behind the other, [batch, 1, classes of all]. Nothing
    in it is calibrated.
    """

    heads: Sequence[Classifier]
    build_for: Callable[[int], nn.Module] = field(compare=False, repr=False)
    """A function that returns the head for a number of classes."""

    read: Callable[[Tensor, Batch], Tensor] = field(compare=False, repr=False)
    """A function that returns what the heads read of a hidden state, [batch, width]."""

    name: str = "classifiers"
    prefix: str = PREFIX
    steps: tuple[tuple[str, ...], ...] = ()

    def build(self) -> nn.Module:
        return nn.ModuleList(self.build_head(place) for place in range(len(self.heads))).eval()

    def build_head(self, place: int) -> nn.Module:
        """Return the module of one of the heads."""
        with shapes_alone():
            return self.build_for(len(self.heads[place].classes)).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        return self.scores(module, self.read(hidden, batch))[:, None]

    def scores(self, module: nn.Module, pooled: Tensor) -> Tensor:
        """Return the scores by all heads, [n, classes of all], of what they read, [n, width]."""
        return torch.cat([head(pooled) for head in module.children()], 1)

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return torch.ones(shape)

    def names_beside(self) -> dict[str, str]:
        """Return the canonical names of all tensors by their names in a file of heads alone."""
        return {
            f"{head.task}.{part}": f"{PREFIX}{place}.{part}"
            for place, head in enumerate(self.heads)
            for part in self.build_head(place).state_dict()
        }

    def beside(self, model: Path) -> Callable[[Tensor], Tensor]:
        """Return what makes scores, float32 [n, classes of all], of what a runtime has pooled, [n, width], by
        the file of heads beside a model's. Raises InputError where its tensors are others.
        """
        file, module = SafetensorsFile(model.with_name(WEIGHTS)), self.build()
        shapes = module.state_dict()
        state = {}
        for own, name in self.names_beside().items():
            expected = list(shapes[name.removeprefix(PREFIX)].shape)
            if list(file.shape(own)) != expected:
                raise InputError(
                    f"{file.path}: tensor {own} has shape {list(file.shape(own))}, expected {expected}"
                )
            state[name.removeprefix(PREFIX)] = file.load(own).float()
        module.load_state_dict(state, assign=True)

        @torch.no_grad()
        def scores(pooled: Tensor) -> Tensor:
            return self.scores(module, pooled)

        return scores
