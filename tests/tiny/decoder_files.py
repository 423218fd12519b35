"""Decoders packed and written in both formats, each once a run: an export to ONNX takes its time."""

from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path

import torch

from converters import open_family
from converters.decoder.family import Decoder
from epmq_export.calibration.rounding import nearest
from epmq_export.grids import GRIDS
from epmq_export.models.blocks import linears
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.tensors import packed_writer
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.tensors.source import Renamed, renamed
from formats.gguf.format import Gguf
from formats.onnx.format import OnnxQdq
from tests.tiny import decoder
from tests.tiny.built_once import built_once
from tests.tiny.packed_index import an_index

# By kind, where it is not Q4_0 for the linears and nothing for the embeddings: the grids that linears are on
# in their turn, and that of the embeddings.
GRIDS_OF = {"llama, tied": (("Q4_0", "Q8_0"), "Q8_0"), "gemma3": (("Q8_0", "Q4_0"), None)}


@dataclass(frozen=True)
class DecoderFiles:
    directory: Path
    packed: Packed
    family: Decoder
    gguf: Path
    onnx: Path


@cache
def decoder_files(kind: str) -> DecoderFiles:
    """Return a decoder's files, which are written once a run and read only."""

    def build(place: Path) -> None:
        held, family = pack(decoder.write(place / "model", kind), *GRIDS_OF.get(kind, ()))
        for format in (Gguf(), OnnxQdq()):
            (place / format.name).mkdir()
            format.write(held, family, place / format.name)

    place = built_once(f"decoder-{kind.replace(', ', '-')}", build)
    family, _ = opened(place / "model")
    return DecoderFiles(
        directory=place / "model",
        packed=Packed(place / "model-packed"),
        family=family,
        gguf=Gguf().find(place / "gguf", family),
        onnx=OnnxQdq().find(place / "onnx", family),
    )


def opened(directory: Path) -> tuple[Decoder, Renamed]:
    family = open_family(directory)
    assert isinstance(family, Decoder)
    return family, renamed(open_checkpoint(str(directory)), family.canonical)


def pack(
    directory: Path, grids: tuple[str, ...] = ("Q4_0",), embeddings: str | None = None
) -> tuple[Packed, Decoder]:
    """Pack a decoder: linears on the grids in their turn, rounded to the nearest, and perhaps the embeddings;
    the rest stays as it is.
    """
    family, source = opened(directory)
    norm = RmsNorm(1, 1e-6, family.kind.offset)  # as calibration ships them
    tensors = {
        name: norm.whole(value) if (value := source.load(name).float()).ndim == 1 else value
        for name in source.names()
    }
    held: dict[str, PackedTensor | torch.Tensor] = {
        **tensors,
        **{
            name: nearest(tensors[name], GRIDS[grid])
            for name, grid in zip(linears(family), cycle(grids), strict=False)
        },
    }
    if embeddings is not None:
        held |= {name: nearest(tensors[name], GRIDS[embeddings]) for name in family.embeddings}
    target = directory.with_name(f"{directory.name}-packed")
    packed_writer.write(target, held, an_index(family.name), directory)
    return Packed(target), family
