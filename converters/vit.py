"""Vision transformers with a class token: ViT, DeiT (with its distillation token) and DINOv2 (with
LayerScale).

Canonical names are those of transformers' ViTModel, DeiTModel and Dinov2Model, which version 4 of the library
had others for; poolers, mask tokens and classifiers are no part of the exported model. Pictures have the size
that the processor gives them, and positions for pictures of another size are interpolated as the library
does.
"""

import copy
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DeiTConfig, Dinov2Config, PreTrainedConfig, ViTConfig
from transformers.models.deit.modeling_deit import DeiTEmbeddings, DeiTLayer
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings, Dinov2Layer
from transformers.models.vit.modeling_vit import ViTEmbeddings, ViTLayer

from converters.vit_onnx import Encoder
from epmq_export.errors import InputError
from epmq_export.models.family import Batch, Block
from epmq_export.models.processor import CONFIG, load_processor, preprocess
from epmq_export.models.samples import Picture, Sample, picture_of
from epmq_export.models.specs import GgufSpec, OnnxSpec

# The library's fields are of the classes below `PreTrainedConfig`.
Config = Any
Size = tuple[int, int]
# FeatCal's public code weighs rows that the output does not read by 0.01; not by 0, so that the Hessian stays
# full.
UNREAD = 0.01
# The classifier of this model reads the mean of the patches beside the class token, and is twice as wide as
# the hidden state.
BOTH = "Dinov2ForImageClassification"
_KEYS: Mapping[str, object] = {"hidden_act": "gelu", "num_channels": 3, "use_swiglu_ffn": False}
# Of transformers 4, in an order: `output.dense` is also the end of a longer name.
_OLD = (
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
)


@dataclass(frozen=True)
class Kind:
    """What the models differ in."""

    name: str
    """The `model_type` of their configs, and what may stand before their tensors' names."""

    config: type[PreTrainedConfig]
    embeddings: type[nn.Module]
    layer: type[nn.Module]
    stack: str
    """What the names of the layers begin with."""

    norms: tuple[str, str]
    """Before the attention, and before the feed-forward."""

    tokens: tuple[str, ...]
    """Those before the patches; the first is the one that the output is read off."""

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        first, second = self.norms
        attention = (
            (first,),
            ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
            ("attention.o_proj",),
        )
        return (*attention, (second,), ("mlp.fc1",), ("mlp.fc2",))


_NORMS = ("layernorm_before", "layernorm_after")
KINDS = {
    kind.name: kind
    for kind in (
        Kind("vit", ViTConfig, ViTEmbeddings, ViTLayer, "layers", _NORMS, ("cls_token",)),
        Kind(
            "deit",
            DeiTConfig,
            DeiTEmbeddings,
            DeiTLayer,
            "layers",
            _NORMS,
            ("cls_token", "distillation_token"),
        ),
        Kind(
            "dinov2",
            Dinov2Config,
            Dinov2Embeddings,
            Dinov2Layer,
            "encoder.layer",
            ("norm1", "norm2"),
            ("cls_token",),
        ),
    )
}


@dataclass(frozen=True)
class Stem:
    """Tokens and patches, each with its position. Nothing of it is calibrated."""

    kind: Kind
    config: Config
    name: str = "embeddings"
    prefix: str = "embeddings."
    steps: tuple[tuple[str, ...], ...] = ()

    def build(self) -> nn.Module:
        with torch.device("meta"):
            return self.kind.embeddings(self.config).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        made: Any = module
        # Not the module's own forward: ViT's and DeiT's take pictures of the config's size only, unless told
        # otherwise.
        patches: Tensor = made.patch_embeddings.projection(batch["pixel_values"])
        size = (patches.shape[2], patches.shape[3])
        tokens = [getattr(made, token).expand(patches.shape[0], 1, -1) for token in self.kind.tokens]
        return torch.cat((*tokens, patches.flatten(2).transpose(1, 2)), 1) + interpolated(
            made.position_embeddings, len(tokens), size
        )

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return torch.ones(shape)


@dataclass(frozen=True)
class Layer:
    """One transformer layer, normalised before each part."""

    kind: Kind
    config: Config
    index: int
    reads_class_only: bool
    """The last layer, where only keys and values of the other tokens reach the output."""

    @property
    def name(self) -> str:
        return f"{self.kind.stack}.{self.index}"

    @property
    def prefix(self) -> str:
        return f"{self.name}."

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        return self.kind.steps

    def build(self) -> nn.Module:
        with torch.device("meta"):
            return self.kind.layer(self.config).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        result: Tensor = module(hidden)
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        # The norm before keys and values serves them too.
        return _weights(
            shape, self.reads_class_only and not {"attention.k_proj", self.kind.norms[0]} & set(step)
        )


@dataclass(frozen=True)
class Head:
    """Every token, normalised: what transformers calls the last hidden state."""

    config: Config
    reads_class_only: bool
    name: str = "head"
    prefix: str = ""
    steps: tuple[tuple[str, ...], ...] = (("layernorm",),)

    def build(self) -> nn.Module:
        with torch.device("meta"):
            module = nn.Module()
            module.layernorm = nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        result: Tensor = module.get_submodule("layernorm")(hidden)
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return _weights(shape, self.reads_class_only)


@dataclass(frozen=True)
class Vit:
    directory: Path
    kind: Kind
    config: Config
    processor: Any
    crop: Size
    """Height and width of the processor's pictures."""

    both: bool
    """Whether the output is the class token and beside it the mean of the patches, as DINOv2's classifier
    reads them.
    """

    modality: Literal["image"] = "image"
    runtimes: Mapping[str, str] = field(default_factory=lambda: {"onnx": "onnxruntime"})
    embeddings: tuple[str, ...] = ()
    halves: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    text_tower: None = None
    logit_scale: None = None

    @classmethod
    def open(cls, directory: Path, kind: Kind) -> "Vit":
        path = directory / "config.json"
        try:
            config: Config = copy.deepcopy(kind.config.from_pretrained(directory))
        except Exception as error:  # the library's checks raise a class of their own for every mistake
            raise InputError(
                f"{path}: found no config of a {kind.name} ({' '.join(str(error).split())})"
            ) from None
        _refuse_unsupported(path, kind, config)
        config._attn_implementation = "sdpa"
        config.use_mask_token = False
        processor = load_processor(directory)
        crop = _crop(directory / CONFIG, processor, config.patch_size)
        return cls(directory, kind, config, processor, crop, BOTH in (config.architectures or ()))

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def blocks(self) -> Sequence[Block]:
        last = self.config.num_hidden_layers - 1
        layers = (
            Layer(self.kind, self.config, i, reads_class_only=i == last and not self.both)
            for i in range(last + 1)
        )
        return (Stem(self.kind, self.config), *layers, Head(self.config, reads_class_only=not self.both))

    def canonical(self, name: str) -> str | None:
        """Without the `vit.` of models with a head, and by the names of transformers 5; None for poolers,
        mask tokens and heads.
        """
        name = name.removeprefix(f"{self.name}.")
        if self.kind.stack == "layers":
            name = re.sub(r"^encoder\.layer\.", "layers.", name)
        if name.startswith(f"{self.kind.stack}."):
            for old, new in _OLD:
                name = name.replace(f".{old}", f".{new}")
        known = name.startswith(("embeddings.", f"{self.kind.stack}.", "layernorm."))
        return name if known and name != "embeddings.mask_token" else None

    def truncate(self, sample: Sample) -> Picture:
        return picture_of(sample)

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        for start in range(0, len(samples), size):
            yield {
                "pixel_values": torch.from_numpy(
                    preprocess(
                        self.processor, [picture_of(sample) for sample in samples[start : start + size]]
                    )
                )
            }

    def later(self, batch: Batch) -> Batch:
        return {}

    def output(self, hidden: Tensor, batch: Batch) -> Tensor:
        """The class token, [batch, width]; with the mean of the patches beside it, [batch, 2 width]."""
        first = hidden[:, 0]
        return torch.cat((first, hidden[:, len(self.kind.tokens) :].mean(1)), 1) if self.both else first

    def gguf(self) -> GgufSpec:
        raise InputError(
            f"{self.directory}: found the family {self.name}, which no runtime reads as GGUF, expected "
            f"{' or '.join(self.runtimes)}"
        )

    def onnx(self) -> Mapping[str, OnnxSpec]:
        """As optimum and transformers.js have it; the class token stands for a pooler's output, whether or
        not the model was trained with a pooler.
        """
        images = {0: "batch_size"}
        # Two pictures: the exporter takes an axis of length 0 or 1 for a constant.
        example = {"pixel_values": torch.zeros(2, 3, *self.crop)}
        outputs = dict.fromkeys(
            ("last_hidden_state", "pooler_output", *(["image_embeds"] if self.both else [])), images
        )
        output = self.output if self.both else None
        return {
            "model": OnnxSpec(
                lambda source: Encoder(self.blocks, output, source),
                example,
                {"pixel_values": images},
                outputs,
                [self],
            )
        }

    def approximate(self) -> "Vit":
        """Itself: ggml runs no file of it."""
        return self


def vit(directory: Path) -> Vit:
    return Vit.open(directory, KINDS["vit"])


def deit(directory: Path) -> Vit:
    return Vit.open(directory, KINDS["deit"])


def dinov2(directory: Path) -> Vit:
    return Vit.open(directory, KINDS["dinov2"])


def interpolated(table: Tensor, tokens: int, size: Size) -> Tensor:
    """Positions [1, tokens + rows * columns, width] out of a table [1, tokens + side * side, width], as
    transformers interpolates them.
    """
    side, (rows, columns) = math.isqrt(table.shape[1] - tokens), size
    if (rows, columns) == (side, side):
        return table
    grid = table[:, tokens:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    # In the same float32, bicubic and without smoothing even where it makes the grid smaller.
    scaled = nn.functional.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
    return torch.cat((table[:, :tokens], scaled.permute(0, 2, 3, 1).reshape(1, rows * columns, -1)), 1)


def _weights(shape: tuple[int, int], class_only: bool) -> Tensor:
    weights = torch.full(shape, UNREAD if class_only else 1.0)
    weights[:, 0] = 1.0
    return weights


def _refuse_unsupported(path: Path, kind: Kind, config: Config) -> None:
    for key, value in _KEYS.items():
        found = getattr(config, key, value)
        if found != value:
            raise InputError(
                f"{path}: found {key} {found!r}, expected {value!r}: family {kind.name} has no other"
            )
    for key in ("image_size", "patch_size"):
        found = getattr(config, key)
        sides = [found] if isinstance(found, int) else list(found)
        if len(set(sides)) != 1 or sides[0] < 1:
            raise InputError(f"{path}: found {key} {found!r}, expected the side of a square")
        setattr(config, key, sides[0])
    if config.image_size < config.patch_size:
        raise InputError(
            f"{path}: found image_size {config.image_size}, expected at least patch_size, which is "
            f"{config.patch_size}"
        )


def _crop(path: Path, processor: Any, patch: int) -> Size:  # noqa: ANN401 - the library's classes share no typed call
    """What the processor makes of a picture: one size for a wide one and a tall one, of at least a patch;
    InputError where it is not so.
    """
    pixels = [np.zeros(shape, np.uint8) for shape in ((40, 60, 3), (60, 40, 3))]
    try:
        wide, tall = (
            preprocess(processor, [Picture(str(path), "", partial(np.asarray, each))]).shape[2:]
            for each in pixels
        )
    except Exception as error:  # the library raises whatever numpy and Pillow raise
        raise InputError(f"{path}: its settings cannot be used ({' '.join(str(error).split())})") from None
    if wide != tall:
        raise InputError(
            f"{path}: found {wide[0]} x {wide[1]} pixels of a wide picture and {tall[0]} x {tall[1]} of a "
            "tall one, expected one size of all"
        )
    if min(wide) < patch:
        raise InputError(
            f"{path}: found pictures of {wide[0]} x {wide[1]} pixels, expected at least a patch, {patch} "
            f"x {patch}"
        )
    return (wide[0], wide[1])
