"""What verification asks of a runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from epmq_export.models.samples import Sample


class Dequantiser(Protocol):
    """A runtime's own code that decodes the bytes of a tensor."""

    def __call__(self, grid: str, raw: NDArray[np.uint8], count: int, /) -> NDArray[np.float32]:
        """Return float32 [count], the values of the bytes `raw`, uint8, on a grid.

        InputError where the runtime knows no such grid, and where the number of bytes does not fit.
        """
        ...


class Runtime(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def packages(self) -> Sequence[str]:
        """The distributions that it comes in, whose versions the report tells."""
        ...

    def version(self) -> str:
        """Return its version; MissingRuntime, with what to install, where it is not there."""
        ...

    def outputs(self, path: Path, samples: Sequence[Sample], *, exact: bool = False) -> NDArray[np.float32]:
        """Return the model's outputs [len(samples), width] for samples of one kind, by the runtime's own
        tokenizer where it has one that is right.

        By default as users run it; `exact` keeps the runtime from computing in lower precision than the file.
        InputError where the runtime refuses the file, dies on it, or passes the time or memory limit.
        """
        ...

    @property
    def dequantiser(self) -> Dequantiser | None:
        """What decodes tensors as this runtime does, every grid of the formats that it reads; None where it
        offers nothing of the kind.
        """
        ...

    def notes(self, files: Sequence[Path]) -> dict[str, Any]:
        """Return facts for the report of how it runs the model that consists of these files, such as how many
        linears it fuses. InputError where it refuses one of them.
        """
        ...
