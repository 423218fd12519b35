"""T5 models packed and written in both formats, each version once a run: an export of four models to ONNX
takes its time.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from converters import open_family
from converters.t5.family import T5
from epmq_export.calibration.rounding import nearest
from epmq_export.grids import GRIDS
from epmq_export.tensors import packed_writer
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.tensors.source import Renamed, renamed
from formats.gguf.format import Gguf
from formats.onnx.format import OnnxQdq
from tests.tiny.built_once import built_once
from tests.tiny.packed_index import an_index
from tests.tiny.t5 import t5


@dataclass(frozen=True)
class T5Files:
    packed: Packed
    family: T5
    gguf: Path
    onnx: Path


@cache
def t5_files(version: str) -> T5Files:
    """Return the files of a T5 with two layers in either half. They are written once a run and read only."""

    def build(place: Path) -> None:
        held, family = pack(t5(place / "model", version, depths=(2, 2)))
        for format in (Gguf(), OnnxQdq()):
            (place / format.name).mkdir()
            format.write(held, family, place / format.name)

    place = built_once(f"t5-{version}", build)
    held = Packed(place / "model-packed")
    family = T5.open(held.directory)
    return T5Files(
        packed=held,
        family=family,
        gguf=Gguf().find(place / "gguf", family),
        onnx=OnnxQdq().find(place / "onnx", family),
    )


def opened(directory: Path) -> tuple[T5, Renamed]:
    family = open_family(directory)
    assert isinstance(family, T5)
    return family, renamed(open_checkpoint(str(directory)), family.canonical)


def pack(directory: Path, embeddings: str | None = None) -> tuple[Packed, T5]:
    """Pack a T5 model: linears on Q4_0, embeddings and heads in F16 or on a grid, rounded to the nearest."""
    family, source = opened(directory)
    linears = {
        f"{block.prefix}{path}.weight" for block in family.blocks for step in block.steps for path in step
    }

    def stored(name: str, value: torch.Tensor) -> PackedTensor | torch.Tensor:
        if name in family.embeddings:
            return value.half() if embeddings is None else nearest(value, GRIDS[embeddings])
        return nearest(value, GRIDS["Q4_0"]) if name in linears and value.ndim == 2 else value

    place = directory.with_name(f"{directory.name}-packed")
    tensors = {name: stored(name, source.load(name)) for name in source.names()}
    packed_writer.write(place, tensors, an_index("t5"), directory)
    return Packed(place), T5.open(place)
