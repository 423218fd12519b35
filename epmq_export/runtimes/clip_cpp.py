"""clip.cpp, through the package clip-cpp, in processes of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epmq_export.data.sample import Sample
from epmq_export.runtimes import ggml_types


@dataclass(frozen=True)
class ClipCpp:
    name = "clip.cpp"
    format = "gguf"
    approximate = True

    def version(self) -> str:
        return "0.5.0"

    def outputs(self, path: Path, samples: Sequence[Sample], *, exact: bool = False) -> NDArray[np.float32]:
        raise NotImplementedError

    def dequantise(self, grid: str, raw: NDArray[np.uint8], count: int) -> NDArray[np.float32] | None:
        return ggml_types.dequantise(grid, raw, count)
