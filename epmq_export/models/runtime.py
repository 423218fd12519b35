"""What verification asks of a runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from epmq_export.models.samples import Sample


class Runtime(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def format(self) -> str:
        """The name of the format that it reads."""
        ...

    @property
    def approximate(self) -> bool:
        """Whether it computes what `Family.approximate` does."""
        ...

    def version(self) -> str:
        """MissingRuntime, with what to install, where it is not there."""
        ...

    def outputs(self, path: Path, samples: Sequence[Sample], *, exact: bool = False) -> NDArray[np.float32]:
        """The model's outputs [len(samples), width] for samples of one kind, by the runtime's own tokenizer
        where it has one that is right.

        By default as users run it; `exact` keeps the runtime from computing in lower precision than the file.
        InputError where the runtime refuses the file, dies on it, or passes the time or memory limit.
        """
        ...

    def dequantise(self, grid: str, raw: NDArray[np.uint8], count: int) -> NDArray[np.float32] | None:
        """`count` values of raw bytes on a grid, by the runtime's own code; None where it offers none."""
        ...
