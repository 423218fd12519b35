"""The blocks of vision transformers with a class token."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from converters.shared.config import Config
from converters.shared.row_weights import first_read
from converters.vit.kinds import Kind
from epmq_export.models.family import Batch
from epmq_export.models.shapes import shapes_alone

Size = tuple[int, int]


@dataclass(frozen=True)
class Stem:
    """Tokens and patches, each with its position. Nothing in it is calibrated."""

    kind: Kind
    config: Config
    name: str = "embeddings"
    prefix: str = "embeddings."
    steps: tuple[tuple[str, ...], ...] = ()

    def build(self) -> nn.Module:
        with shapes_alone():
            module: Any = self.kind.embeddings(self.config)
        module.mask_token = None  # Only training reads it.
        made: nn.Module = module.eval()
        return made

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        made: Any = module
        # The module's own forward is not used, because that of ViT and DeiT takes only pictures of the
        # config's size unless it is told otherwise.
        patches: Tensor = made.get_submodule(self.kind.patches)(batch["pixel_values"])
        size = (patches.shape[2], patches.shape[3])
        tokens = [getattr(made, token).expand(patches.shape[0], -1, -1) for token in self.kind.tokens]
        found = torch.cat((*tokens, patches.flatten(2).transpose(1, 2)), 1)
        if self.kind.rotates:
            return found
        placed, smooth = self.kind.placed, self.kind.smooth
        positions = interpolated(made.position_embeddings, placed, size, smooth)
        # Registers stand between the tokens that have positions and the patches.
        bare = positions.new_zeros(1, found.shape[1] - positions.shape[1], positions.shape[2])
        return found + torch.cat((positions[:, :placed], bare, positions[:, placed:]), 1)

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return torch.ones(shape)


@dataclass(frozen=True)
class Layer:
    """One transformer layer, normalised before each part."""

    kind: Kind
    config: Config
    index: int
    reads_class_only: bool
    """Whether this is a last layer where only keys and values of the other tokens reach the output."""

    rotations: tuple[Tensor, Tensor] | None = field(default=None, compare=False, repr=False)
    """The cosines and sines by which the positions of the patches turn queries and keys, [patches, width of a
    head], where the kind does so.
    """

    @property
    def name(self) -> str:
        return f"{self.kind.stack}.{self.index}"

    @property
    def prefix(self) -> str:
        return f"{self.name}."

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        return self.kind.steps(self.config)

    def build(self) -> nn.Module:
        with shapes_alone():
            return self.kind.layer(self.config).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        turned = {}
        if self.rotations is not None:
            turned["position_embeddings"] = tuple(each.to(hidden.device) for each in self.rotations)
        result: Tensor = module(hidden, **turned)
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        # The norm before keys and values serves them too.
        return _weights(
            shape, self.reads_class_only and not {"attention.k_proj", self.kind.norms[0]} & set(step)
        )


@dataclass(frozen=True)
class Head:
    """Every token, normalised, which transformers calls the last hidden state."""

    kind: Kind
    config: Config
    reads_class_only: bool
    name: str = "head"
    prefix: str = ""

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        return ((self.kind.last,),)

    def build(self) -> nn.Module:
        with shapes_alone():
            norm = nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)
            return nn.ModuleDict({self.kind.last: norm}).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        result: Tensor = module.get_submodule(self.kind.last)(hidden)
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return _weights(shape, self.reads_class_only)


def interpolated(table: Tensor, tokens: int, size: Size, smooth: bool) -> Tensor:
    """Return positions [1, tokens + rows * columns, width] out of a table [1, tokens + side * side, width],
    as transformers interpolates them.
    """
    side, (rows, columns) = math.isqrt(table.shape[1] - tokens), size
    if (rows, columns) == (side, side):
        return table
    grid = table[:, tokens:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    # This is the library's own choice: float32, bicubic, and for most kinds without smoothing even where the
    # grid gets smaller.
    scaled = nn.functional.interpolate(
        grid, size=(rows, columns), mode="bicubic", align_corners=False, antialias=smooth
    )
    return torch.cat((table[:, :tokens], scaled.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)), 1)


def _weights(shape: tuple[int, int], class_only: bool) -> Tensor:
    return first_read(torch.ones(shape)) if class_only else torch.ones(shape)
