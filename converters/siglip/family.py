"""SigLIP: the image tower, in which experts are fine-tuned, and the text tower, which stays the base's and
makes zero-shot heads. SigLIP 2 for pictures of one size is the same with another tokenizer.

Canonical names are those of transformers' SiglipModel.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, SiglipConfig

from converters.clip.onnx import joint_spec
from converters.shared.batches import fitting, preprocessed, tokenised
from converters.shared.config import Config, load_config, refuse_other_values
from converters.shared.dequantised import dequantised
from converters.siglip import FROZEN
from converters.siglip.blocks import Layer, Norm, TextHead, TextStem, VisionHead, VisionStem
from converters.siglip.names import BIAS, SCALE, TEXT, VISION, naming
from converters.siglip.onnx import scale_and_bias, scored, text_spec, vision_spec
from epmq_export.errors import InputError
from epmq_export.models.family import Batch, Block, Export, Images, ZeroShot
from epmq_export.models.processor import load_processor
from epmq_export.models.samples import Picture, Sample, picture_of, text_of
from epmq_export.models.specs import OnnxExport, OnnxSpec
from epmq_export.models.tokenizer import fast_tokenizer

_KNOWN: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("gelu_pytorch_tanh", "gelu"),
    "num_channels": (3,),
    "vision_use_head": (True,),
}


@dataclass(frozen=True)
class _Tower:
    """The parts that both towers share."""

    directory: Path
    config: Config
    """The tower's own."""

    unit: bool = field(default=False, kw_only=True)
    """Whether outputs get length 1, as those of a joint model have."""

    embeddings: tuple[str, ...] = field(default=(f"{TEXT}.embeddings.token_embedding.weight",), kw_only=True)
    frozen: tuple[str, ...] = field(default=FROZEN, kw_only=True)
    language: None = field(default=None, kw_only=True)
    classifiers: None = field(default=None, kw_only=True)

    def canonical(self, name: str) -> str | None:
        return naming({}).canonical(name)

    def later(self, batch: Batch) -> Batch:
        return {}

    def output(self, hidden: Tensor, batch: Batch) -> Tensor:
        features = hidden[:, 0]
        return nn.functional.normalize(features, dim=-1) if self.unit else features

    def _layers(self, tower: str) -> Iterator[Block]:
        """Give the layers and the norm behind them."""
        for index in range(self.config.num_hidden_layers):
            yield Layer(self.config, tower, index)
        yield Norm(self.config, tower)


@dataclass(frozen=True)
class SiglipText(_Tower):
    """The text tower, which is written with the image tower and has no file of its own."""

    tokenizer: PreTrainedTokenizerFast
    name: str = "siglip text"
    images: None = None

    @property
    def exports(self) -> Mapping[str, Export]:
        return {}

    @property
    def zero_shot(self) -> ZeroShot:
        return ZeroShot(self, SCALE, BIAS, logit_shape=(1,))

    @property
    def max_length(self) -> int:
        longest: int = self.config.max_position_embeddings
        return longest

    @property
    def blocks(self) -> Sequence[Block]:
        return (TextStem(self.config), *self._layers(TEXT), TextHead(self.config))

    def truncate(self, sample: Sample) -> str:
        return fitting(self.tokenizer, text_of(sample), self.max_length)

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        """Give tokens without a mask, each text padded to the longest that the tower has room for: it was
        trained so, and reads what pads a text as any other token.
        """
        settings = {"padding": "max_length", "padding_side": "right"}
        for encoded in tokenised(self.tokenizer, samples, size, self.max_length, **settings):
            yield {"input_ids": encoded["input_ids"]}


@dataclass(frozen=True)
class Siglip(_Tower):
    """The image tower, with the text tower that it was trained beside."""

    processor: Any
    text_tower: SiglipText
    name: str = "siglip"

    @classmethod
    def open(cls, directory: Path) -> "Siglip":
        path = directory / "config.json"
        config = load_config("siglip", path, SiglipConfig)
        text, vision = config.text_config, config.vision_config
        for part in (text, vision):
            part._attn_implementation = "sdpa"
            refuse_other_values("siglip", path, part, _KNOWN)
        if text.projection_size != vision.hidden_size:
            raise InputError(
                f"{path}: found text_config.projection_size {text.projection_size}, expected "
                f"{vision.hidden_size}, the width of the pictures"
            )
        tower = SiglipText(directory, text, fast_tokenizer(directory))
        return cls(directory, vision, load_processor(directory), tower)

    @property
    def blocks(self) -> Sequence[Block]:
        return (VisionStem(self.config), *self._layers(VISION), VisionHead(self.config))

    @property
    def exports(self) -> Mapping[str, Export]:
        """Without GGUF, which no runtime reads it as."""
        return {
            "onnx": OnnxExport(runtimes=("onnxruntime",), computed=lambda: self, specs=self._onnx_specs),
            "safetensors": dequantised(self),
        }

    @property
    def zero_shot(self) -> ZeroShot:
        return self.text_tower.zero_shot

    @property
    def images(self) -> Images:
        side = self.config.image_size
        return Images(numbers=3 * side**2, tokens=(side // self.config.patch_size) ** 2)

    def truncate(self, sample: Sample) -> Picture:
        return picture_of(sample)

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        return preprocessed(self.processor, samples, size)

    def _onnx_specs(self) -> Mapping[str, OnnxSpec]:
        units, side = (replace(self, unit=True), replace(self.text_tower, unit=True)), self.config.image_size
        return {
            "vision_model": vision_spec(self, side),
            "text_model": text_spec(self.text_tower),
            "model": joint_spec(*units, side, scale_and_bias, scored),
        }


def open_family(directory: Path, model_type: str) -> Siglip:
    """Open a model's directory."""
    return Siglip.open(directory)
