"""CLIP: the image tower, in which experts are fine-tuned, and the text tower, which stays the base's and
makes zero-shot heads.

Canonical names are those of transformers' CLIPModel. Experts are often stored as the image tower alone, with
or without its prefix.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, PreTrainedTokenizerFast

from converters.clip import FROZEN
from converters.clip.blocks import TEXT, VISION, Layer, TextHead, TextStem, VisionHead, VisionStem
from converters.clip.gguf import GRIDS, gguf_spec
from converters.clip.onnx import joint_spec, text_spec, vision_spec
from converters.shared.batches import fitting, preprocessed, tokenised
from converters.shared.config import load_config, refuse_other_values
from converters.shared.dequantised import dequantised
from epmq_export.errors import InputError
from epmq_export.models.family import Batch, Block, Export, Images, ZeroShot
from epmq_export.models.processor import load_processor
from epmq_export.models.samples import Picture, Sample, picture_of, text_of
from epmq_export.models.specs import GgufExport, GgufSpec, OnnxExport, OnnxSpec
from epmq_export.models.tokenizer import fast_tokenizer

_Config = TypeVar("_Config", CLIPTextConfig, CLIPVisionConfig)
SCALE = "logit_scale"
_KNOWN: Mapping[str, tuple[object, ...]] = {"hidden_act": ("quick_gelu", "gelu")}


@dataclass(frozen=True)
class _Tower:
    """The parts that both towers share."""

    directory: Path
    text: CLIPTextConfig
    vision: CLIPVisionConfig
    unit: bool = field(default=False, kw_only=True)
    """Whether outputs get length 1, as those of a joint model have."""

    @property
    def embeddings(self) -> Sequence[str]:
        return (f"{TEXT}.embeddings.token_embedding.weight",)

    @property
    def frozen(self) -> Sequence[str]:
        return FROZEN

    @property
    def language(self) -> None:
        return None

    @property
    def classifiers(self) -> None:
        return None

    def canonical(self, name: str) -> str | None:
        if name.endswith("position_ids"):
            return None
        if name.startswith(("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")):
            return f"{VISION}.{name}"
        return name

    def later(self, batch: Batch) -> Batch:
        return {}

    def output(self, hidden: Tensor, batch: Batch) -> Tensor:
        features = hidden[:, 0]
        return nn.functional.normalize(features, dim=-1) if self.unit else features


@dataclass(frozen=True)
class ClipText(_Tower):
    """The text tower, which is written with the image tower and has no file of its own."""

    tokenizer: PreTrainedTokenizerFast
    name: str = "clip text"
    images: None = None

    @property
    def exports(self) -> Mapping[str, Export]:
        return {}

    @property
    def zero_shot(self) -> ZeroShot:
        return ZeroShot(self, SCALE)

    @property
    def max_length(self) -> int:
        longest: int = self.text.max_position_embeddings
        return longest

    @property
    def blocks(self) -> Sequence[Block]:
        return (
            TextStem(self.text),
            *(Layer(self.text, TEXT, i) for i in range(self.text.num_hidden_layers)),
            TextHead(self.text),
        )

    def truncate(self, sample: Sample) -> str:
        return fitting(self.tokenizer, text_of(sample), self.max_length)

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        """Give tokens without a mask: what pads a text comes after its end, which does not see it."""
        settings = {"padding_side": "right"}
        for encoded in tokenised(self.tokenizer, samples, size, self.max_length, **settings):
            yield {"input_ids": encoded["input_ids"]}

    def later(self, batch: Batch) -> Batch:
        return batch

    def as_ggml(self) -> "ClipText":
        """Return the tower as clip.cpp computes it."""
        return replace(self, text=_as_ggml(self.text))


@dataclass(frozen=True)
class Clip(_Tower):
    """The image tower, with the text tower that it was trained beside."""

    processor: Any
    text_tower: ClipText
    name: str = "clip"

    @classmethod
    def open(cls, directory: Path) -> "Clip":
        path = directory / "config.json"
        config = load_config("clip", path, CLIPConfig)
        text, vision = config.text_config, config.vision_config
        if not isinstance(config.projection_dim, int):
            raise InputError(f"{path}: found projection_dim {config.projection_dim!r}, expected a number")
        for part in (text, vision):
            part._attn_implementation = "sdpa"
            part.projection_dim = config.projection_dim  # the towers' own are what they would have alone
            refuse_other_values("clip", path, part, _KNOWN)
        tower = ClipText(directory, text, vision, fast_tokenizer(directory))
        return cls(directory, text, vision, load_processor(directory), tower)

    @property
    def blocks(self) -> Sequence[Block]:
        last = self.vision.num_hidden_layers - 1
        layers = (Layer(self.vision, VISION, i, reads_class_only=i == last) for i in range(last + 1))
        return (VisionStem(self.vision), *layers, VisionHead(self.vision))

    @property
    def exports(self) -> Mapping[str, Export]:
        return {
            "gguf": GgufExport(
                runtimes=("clip.cpp",),
                computed=self._as_ggml,
                # The convolution of clip.cpp takes no other type.
                halves=(f"{VISION}.embeddings.patch_embedding.weight",),
                grids=GRIDS,
                spec=self._gguf_spec,
            ),
            "onnx": OnnxExport(runtimes=("onnxruntime",), computed=lambda: self, specs=self._onnx_specs),
            "safetensors": dequantised(self),
        }

    @property
    def zero_shot(self) -> ZeroShot:
        return ZeroShot(self.text_tower, SCALE)

    @property
    def images(self) -> Images:
        return Images(numbers=3 * self._side**2, tokens=1 + (self._side // self._patch) ** 2)

    def truncate(self, sample: Sample) -> Picture:
        return picture_of(sample)

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        return preprocessed(self.processor, samples, size)

    @property
    def _side(self) -> int:
        """Pixels of a picture's side; the library's class says that it may be a pair."""
        side: Any = self.vision.image_size
        return int(side)

    @property
    def _patch(self) -> int:
        patch: Any = self.vision.patch_size
        return int(patch)

    def _gguf_spec(self) -> GgufSpec:
        return gguf_spec(self.text, self.vision, self.text_tower.tokenizer, self.directory, self.processor)

    def _onnx_specs(self) -> Mapping[str, OnnxSpec]:
        units = replace(self, unit=True), replace(self.text_tower, unit=True)
        return {
            "vision_model": vision_spec(self, self._side),
            "text_model": text_spec(self.text_tower),
            "model": joint_spec(*units, self._side),
        }

    def _as_ggml(self) -> "Clip":
        return replace(
            self,
            vision=_as_ggml(self.vision),
            text=_as_ggml(self.text),
            text_tower=self.text_tower.as_ggml(),
        )


def open_family(directory: Path, model_type: str) -> Clip:
    """Open a model's directory."""
    return Clip.open(directory)


def _as_ggml(config: _Config) -> _Config:
    """Return a tower's config with the tanh form of GELU, which ggml computes; a quick GELU is what it
    says.
    """
    changed = copy.deepcopy(config)
    if changed.hidden_act == "gelu":
        changed.hidden_act = "gelu_pytorch_tanh"
    return changed
