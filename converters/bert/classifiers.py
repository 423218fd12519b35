"""The heads of classifiers of BERT's kinds: two linears on the first token's hidden state, with an activation
between them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from converters.bert.kinds import Kind
from converters.shared.config import Config
from epmq_export.errors import InputError
from epmq_export.models.classifiers import PREFIX, WEIGHTS, Classifier
from epmq_export.models.family import Batch
from epmq_export.tensors.safetensors_file import SafetensorsFile


class Head(nn.Module):
    """The head of one classifier. It gives the scores of a hidden state, float32 [batch, length, classes]."""

    def __init__(self, width: int, classes: int, between: str) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.between: nn.Module = getattr(nn, between)()
        self.out = nn.Linear(width, classes)

    def forward(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.out(self.between(self.dense(hidden)))
        return scores


@dataclass(frozen=True)
class Scored:
    """The scores of each text by all classifiers, one behind the other, [batch, 1, classes of all]. Nothing
    in it is calibrated.
    """

    kind: Kind
    config: Config
    heads: Sequence[Classifier]
    name: str = "classifiers"
    prefix: str = PREFIX
    steps: tuple[tuple[str, ...], ...] = ()

    def build(self) -> nn.Module:
        return nn.ModuleList(self.build_head(place) for place in range(len(self.heads))).eval()

    def build_head(self, place: int) -> nn.Module:
        """Return the module of one of the heads."""
        with torch.device("meta"):
            classes = len(self.heads[place].classes)
            return Head(self.config.hidden_size, classes, self.kind.between).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        return torch.cat([head(hidden[:, :1]) for head in module.children()], 2)

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
        """Return what makes scores, float32 [n, classes of all], of the first tokens' hidden states, [n,
        width], by the file of heads beside a model's. Raises InputError where its tensors are others.
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
        def scores(found: Tensor) -> Tensor:
            return self.run(module, found[:, None], {})[:, 0]

        return scores
