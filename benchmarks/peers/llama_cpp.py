"""llama-quantize's work with llama.cpp's own functions: a GGUF in full precision in, one with quantised
linears out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray

from benchmarks.peers.imatrix import importance
from benchmarks.peers.peer import Merge, Quantised, Run, in_pytorch
from epmq_export.errors import MissingRuntime
from epmq_export.installed import registry
from epmq_export.models.blocks import linears
from epmq_export.models.specs import GgufExport
from epmq_export.tensors.ggml_types import F16, F32
from epmq_export.tensors.gguf_file import GgufFile
from epmq_export.verification.runtimes.llama_cpp import ggml as ggml_types
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp

# What llama-quantize takes instead for rows that are no multiple of 256 (`tensor_type_fallback` in its
# src/llama-quant.cpp).
FALLBACK = {"Q4_K": "Q5_0"}
PLAIN = {F32: np.float32, F16: np.float16}


@dataclass(frozen=True)
class LlamaQuantize:
    """Every linear on one type, as `llama-quantize --pure` has it; its mixtures Q4_K_S and Q4_K_M give some
    tensors more bits.
    """

    grid: str
    imatrix: bool
    """Whether errors are weighted by an importance matrix of the calibration texts."""

    stages = ("packed", "gguf")

    @property
    def name(self) -> str:
        return f"llama.cpp {self.grid}" + (", imatrix" if self.imatrix else "")

    @property
    def settings(self) -> dict[str, Any]:
        return {"grid": self.grid, "fallback": FALLBACK.get(self.grid), "imatrix": self.imatrix}

    def missing(self) -> str | None:
        try:
            LlamaCpp().version()
        except MissingRuntime as error:
            return str(error)
        return None

    def quantise(self, merge: Merge, folder: Path) -> Quantised:
        full = registry().formats["gguf"].write(merge.packed, merge.family, folder)
        weights = importance(merge) if self.imatrix else {}
        export = merge.family.exports["gguf"]
        assert isinstance(export, GgufExport)
        spec = export.spec()
        grids, raw = {}, {}
        for name in linears(merge.family):
            weight = merge.packed.load(name).numpy()
            grids[name] = self.grid_of(weight.shape[1])
            raw[name] = ggml_types.quantise(
                grids[name], weight, weights[name].numpy() if self.imatrix else None
            )
        written = folder / "quantised.gguf"
        # Rows that stand in another order in the file are quantised alike: each by itself.
        in_file = {
            name: raw[name][spec.orders[name].numpy()] if name in spec.orders else raw[name] for name in raw
        }
        _write(full, written, _by_file(spec.names, grids, in_file))
        shapes = {name: merge.packed.shape(name) for name in raw}
        values = {
            name: ggml_types.dequantise(grids[name], raw[name].reshape(-1), prod(shapes[name]))
            for name in raw
        }
        shipped = {
            name: torch.from_numpy(value).reshape(shapes[name])
            for name, value in values.items()
            if value is not None
        }
        runs: dict[str, Run] = {
            "packed": in_pytorch(merge, shipped),
            "gguf": partial(LlamaCpp().outputs, written),
        }
        fallen = sorted({shapes[name][1] for name in raw if grids[name] != self.grid})
        note = (
            f"{FALLBACK[self.grid]} for rows of {', '.join(map(str, fallen))}, as llama-quantize falls back"
            if fallen
            else None
        )
        return Quantised(8 * sum(map(np.size, raw.values())) / sum(map(prod, shapes.values())), runs, note)

    def grid_of(self, width: int) -> str:
        """Return what rows of `width` weights are stored on."""
        fits = width % GGML_QUANT_SIZES[GGMLQuantizationType[self.grid]][0] == 0
        return self.grid if fits else FALLBACK[self.grid]


def _by_file(
    names: Mapping[str, str], grids: Mapping[str, str], raw: Mapping[str, NDArray[np.uint8]]
) -> dict[str, tuple[GGMLQuantizationType, NDArray[np.uint8]]]:
    """Return the bytes of the file's tensors, with their types. Those of a mixture's experts lie in one, an
    expert behind the other.
    """
    parts: dict[str, list[str]] = {}
    for name in raw:
        parts.setdefault(names[name], []).append(name)
    return {
        there: (
            GGMLQuantizationType[grids[of[0]]],
            raw[of[0]] if len(of) == 1 else np.stack([raw[name] for name in of]),
        )
        for there, of in parts.items()
    }


def _write(
    source: Path, target: Path, replaced: Mapping[str, tuple[GGMLQuantizationType, NDArray[np.uint8]]]
) -> None:
    """Write a GGUF file anew, with some of its tensors in bytes of another type."""
    file = GgufFile.open(source)
    writer = GGUFWriter(target, "")
    writer.kv_data[0].clear()  # the architecture is one of the keys
    for key, value in file.metadata.items():
        writer.add_key_value(key, value.value, value.type, value.items)
    for name, info in file.tensors.items():
        if name in replaced:
            kind, raw = replaced[name]
            writer.add_tensor(name, raw, raw_dtype=kind)
        else:
            writer.add_tensor(name, np.array(file.raw(name)).view(PLAIN[info.type]).reshape(info.shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
