"""Vision transformers with a class token: ViT, DeiT (with its distillation token), DINOv2 (with LayerScale,
and perhaps registers) and DINOv3 (with registers and rotations, too).

Canonical names are those of the library's own files in transformers 5; version 4 had other names.
Poolers and mask tokens are no part of the exported model, nor is a base's own classifier; those of experts
are the heads of their tasks. Pictures have the size that the processor gives them, and positions for pictures
of another size are interpolated as the library does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from converters.shared.batches import preprocessed
from converters.shared.classifiers import Scored, head_of
from converters.shared.config import Config, load_config, refuse_other_values
from converters.shared.dequantised import dequantised
from converters.shared.library import config_class, module_class
from converters.vit.blocks import Head, Layer, Size, Stem
from converters.vit.kinds import KINDS, Kind
from converters.vit.names import naming
from converters.vit.onnx import onnx_spec
from epmq_export.errors import InputError
from epmq_export.models.classifiers import PREFIX, Classifier, read_classifiers
from epmq_export.models.family import Batch, Block, Classifiers, Export, Images
from epmq_export.models.processor import CONFIG, load_processor, preprocess
from epmq_export.models.samples import Picture, Sample, picture_of
from epmq_export.models.specs import OnnxExport
from epmq_export.tensors.naming import Naming

# The classifiers of these models read the mean of the patches beside the class token, and are twice as wide
# as the hidden state.
BOTH = frozenset({"Dinov2ForImageClassification", "Dinov2WithRegistersForImageClassification"})
_KNOWN: Mapping[str, tuple[object, ...]] = {
    "num_channels": (3,),
    "use_swiglu_ffn": (False,),
}


@dataclass(frozen=True)
class Vit:
    """A vision transformer with its processor."""

    directory: Path
    kind: Kind
    config: Config
    processor: Any
    crop: Size
    """The height and width of the processor's pictures."""

    both: bool
    """Whether the class token is read with the mean of the patches beside it, as DINOv2's classifiers do."""

    heads: tuple[Classifier, ...] = ()
    """The classifiers that read this, in the order of their scores."""

    embeddings: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    zero_shot: None = None
    language: None = None

    @classmethod
    def open(cls, directory: Path, kind: Kind) -> "Vit":
        """Read the config and the processor of a model directory.

        Raises InputError for settings that this family does not have.
        """
        path = directory / "config.json"
        config = load_config(kind.name, path, config_class(kind.name))
        refuse_other_values(kind.name, path, config, {**_KNOWN, "hidden_act": kind.activations})
        _require_squares(path, config)
        processor = load_processor(directory)
        crop = _crop(directory / CONFIG, processor, config.patch_size)
        both = isinstance(config.architectures, list) and not BOTH.isdisjoint(config.architectures)
        opened = cls(directory, kind, config, processor, crop, both)
        heads = read_classifiers(directory)
        return opened._read_by(heads) if heads else opened

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def images(self) -> Images:
        height, width = self.crop
        patches = (height // self.config.patch_size) * (width // self.config.patch_size)
        return Images(numbers=3 * height * width, tokens=self.kind.before(self.config) + patches)

    @property
    def classifiers(self) -> Classifiers | None:
        parts = self._naming.classifier
        return None if parts is None else Classifiers(parts=parts, read_by=self._read_by, heads=self.heads)

    def _read_by(self, heads: Sequence[Classifier]) -> "Vit":
        """Return the family whose outputs are the scores of classifiers."""
        return replace(self, heads=tuple(heads), both=f"{self.kind.library}ForImageClassification" in BOTH)

    @property
    def _scored(self) -> Scored | None:
        return Scored(self.heads, self._head, lambda hidden, _: self._read(hidden)) if self.heads else None

    def _head(self, classes: int) -> nn.Module:
        """Return a classifier's head for a number of classes."""
        return head_of(out=nn.Linear(self.config.hidden_size * (2 if self.both else 1), classes))

    @property
    def exports(self) -> Mapping[str, Export]:
        """Without GGUF, which no runtime reads it as."""
        return {
            "onnx": OnnxExport(
                runtimes=("onnxruntime",),
                computed=lambda: self,
                specs=lambda: {"model": onnx_spec(self, self.crop, self.both, self._scored)},
            ),
            "safetensors": dequantised(self),
        }

    @property
    def blocks(self) -> Sequence[Block]:
        last, rotations = self.config.num_hidden_layers - 1, self._rotations
        layers = (
            Layer(self.kind, self.config, i, i == last and not self.both, rotations) for i in range(last + 1)
        )
        return (
            Stem(self.kind, self.config),
            *layers,
            Head(self.kind, self.config, reads_class_only=not self.both),
            *([] if self._scored is None else [self._scored]),
        )

    @property
    def _rotations(self) -> tuple[Tensor, Tensor] | None:
        """Return what the positions of a picture's patches turn queries and keys by, where they do: all
        pictures have one size.
        """
        if not self.kind.rotates:
            return None
        turns = module_class(self.name, f"{self.kind.library}RopePositionEmbedding")(self.config).eval()
        found: tuple[Tensor, Tensor] = turns(torch.empty(1, 1, *self.crop))
        return found

    def canonical(self, name: str) -> str | None:
        if self.heads and name.startswith(PREFIX):
            return name
        return self._naming.canonical(name)

    @property
    def _naming(self) -> Naming:
        return naming({"model_type": self.name})

    def truncate(self, sample: Sample) -> Picture:
        return picture_of(sample)

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        return preprocessed(self.processor, samples, size)

    def later(self, batch: Batch) -> Batch:
        return {}

    def output(self, hidden: Tensor, batch: Batch) -> Tensor:
        return hidden[:, 0] if self.heads else self._read(hidden)

    def _read(self, hidden: Tensor) -> Tensor:
        """Return the class token, [batch, width]; with the mean of the patches beside it, [batch, 2
        width].
        """
        first, before = hidden[:, 0], self.kind.before(self.config)
        return torch.cat((first, hidden[:, before:].mean(1)), 1) if self.both else first


def open_family(directory: Path, model_type: str) -> Vit:
    """Open the directory of a model of the kind."""
    return Vit.open(directory, KINDS[model_type])


def _require_squares(path: Path, config: Config) -> None:
    """Raise InputError where pictures or patches are no squares, or pictures smaller than patches."""
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


def _crop(path: Path, processor: Any, patch: int) -> Size:  # noqa: ANN401 - classes without a common type
    """Return what the processor makes of a picture: one size for a wide one and a tall one, of at least a
    patch; InputError where it is not so.
    """
    pixels = [np.zeros(shape, np.uint8) for shape in ((40, 60, 3), (60, 40, 3))]
    try:
        wide, tall = (
            preprocess(processor, [Picture(str(path), "", partial(np.asarray, each))]).shape[2:]
            for each in pixels
        )
    except Exception as error:  # The library raises whatever numpy and Pillow raise.
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
