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

import torch
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, PreTrainedTokenizerFast

from converters.clip.blocks import TEXT, VISION, Layer, TextHead, TextStem, VisionHead, VisionStem
from converters.clip.gguf import GRIDS, gguf_spec
from converters.clip.onnx import Joint, TextTower, VisionTower
from converters.tokenizers.load import fast_tokenizer
from epmq_export.errors import InputError
from epmq_export.models.family import Batch, Block, Export, Family, Images, ZeroShot
from epmq_export.models.processor import load_processor, preprocess
from epmq_export.models.samples import Picture, Sample, picture_of, text_of
from epmq_export.models.specs import GgufExport, GgufSpec, OnnxExport, OnnxSpec

_Config = TypeVar("_Config", CLIPTextConfig, CLIPVisionConfig)
SCALE = "logit_scale"
_ACTIVATIONS = ("quick_gelu", "gelu")


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
        return (f"{TEXT}.*", "text_projection.*", "visual_projection.*", SCALE)

    @property
    def language(self) -> None:
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
        text = text_of(sample)
        encoded = self.tokenizer(
            text, truncation=True, max_length=self.max_length, return_offsets_mapping=True
        )
        if len(encoded["input_ids"]) < self.max_length:
            return text
        return text[: max(end for _, end in encoded["offset_mapping"])]

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        """Yield batches without a mask, because padding comes after the end of a text, which does not
        see it.
        """
        for start in range(0, len(samples), size):
            texts = [text_of(sample) for sample in samples[start : start + size]]
            encoded = self.tokenizer(
                texts,
                padding=True,
                padding_side="right",
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            )
            yield {"input_ids": encoded["input_ids"]}

    def later(self, batch: Batch) -> Batch:
        return batch

    def onnx_spec(self) -> OnnxSpec:
        """Return the tower with its projection, as a model beside the image tower's."""
        batch = {0: "text_batch_size"}
        tokens = {**batch, 1: "sequence_length"}
        # The example has two rows of three, because the exporter takes an axis of length 0 or 1 for constant.
        example = {"input_ids": torch.ones(2, 3, dtype=torch.int64)}
        outputs = {"text_embeds": batch, "last_hidden_state": tokens}
        return OnnxSpec(
            build=lambda source: TextTower(self.blocks, source),
            example=example,
            inputs={"input_ids": tokens},
            outputs=outputs,
            towers=[self],
        )

    def as_ggml(self) -> "ClipText":
        """Return the tower as clip.cpp computes it."""
        return replace(self, text=_approximate(self.text))


@dataclass(frozen=True)
class Clip(_Tower):
    """The image tower, with the text tower that it was trained beside."""

    processor: Any
    text_tower: ClipText
    name: str = "clip"

    @classmethod
    def open(cls, directory: Path) -> "Clip":
        """Read the config, the tokenizer and the processor of a model directory.

        Raises InputError for an activation that this family does not have.
        """
        config = CLIPConfig.from_pretrained(directory)
        text, vision = config.text_config, config.vision_config
        assert isinstance(text, CLIPTextConfig) and isinstance(vision, CLIPVisionConfig)
        for part in (text, vision):
            part._attn_implementation = "sdpa"
            part.projection_dim = config.projection_dim  # The towers' own numbers are for a tower alone.
            if part.hidden_act not in _ACTIVATIONS:
                raise InputError(
                    f"{directory / 'config.json'}: hidden_act is {part.hidden_act!r}, expected one of "
                    f"{', '.join(_ACTIVATIONS)}"
                )
        tower = ClipText(directory=directory, text=text, vision=vision, tokenizer=fast_tokenizer(directory))
        return cls(
            directory=directory,
            text=text,
            vision=vision,
            processor=load_processor(directory),
            text_tower=tower,
        )

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
        }

    @property
    def zero_shot(self) -> ZeroShot:
        return ZeroShot(self.text_tower, SCALE)

    @property
    def images(self) -> Images:
        side, patch = self.vision.image_size, self.vision.patch_size
        assert isinstance(side, int) and isinstance(patch, int)  # Their types also allow pairs.
        return Images(numbers=3 * side**2, tokens=1 + (side // patch) ** 2)

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

    def _gguf_spec(self) -> GgufSpec:
        """Return the layout of both towers, as clip.cpp reads them."""
        return gguf_spec(self.text, self.vision, self.text_tower.tokenizer, self.directory, self.processor)

    def _onnx_specs(self) -> Mapping[str, OnnxSpec]:
        """Return three models, as optimum and transformers.js have them: each tower with its projection, and
        both with their similarities.
        """
        side: Any = self.vision.image_size
        images, texts = {0: "image_batch_size"}, {0: "text_batch_size"}
        pixels = {"pixel_values": torch.zeros(2, 3, side, side)}
        vision = OnnxSpec(
            build=lambda source: VisionTower(self.blocks, source),
            example=pixels,
            inputs={"pixel_values": images},
            outputs={"image_embeds": images, "last_hidden_state": images},
            towers=[self],
        )
        text = self.text_tower.onnx_spec()
        # There are three texts and two pictures, so that the exporter does not take the two axes for one.
        example = {"input_ids": torch.ones(3, 4, dtype=torch.int64), **pixels}
        outputs = {
            "logits_per_image": {0: "image_batch_size", 1: "text_batch_size"},
            "logits_per_text": {0: "text_batch_size", 1: "image_batch_size"},
            "text_embeds": texts,
            "image_embeds": images,
        }
        inputs = {**text.inputs, "pixel_values": images}
        towers: list[Family] = [replace(self, unit=True), replace(self.text_tower, unit=True)]
        joint = OnnxSpec(
            build=lambda source: Joint(self.blocks, self.text_tower.blocks, source),
            example=example,
            inputs=inputs,
            outputs=outputs,
            towers=towers,
        )
        return {"vision_model": vision, "text_model": text, "model": joint}

    def _as_ggml(self) -> "Clip":
        return replace(
            self,
            vision=_approximate(self.vision),
            text=_approximate(self.text),
            text_tower=self.text_tower.as_ggml(),
        )


def _approximate(config: _Config) -> _Config:
    """Return the config as ggml computes it: GELU in its tanh form. A quick GELU stays as it is."""
    changed = copy.deepcopy(config)
    if changed.hidden_act == "gelu":
        changed.hidden_act = "gelu_pytorch_tanh"
    return changed
