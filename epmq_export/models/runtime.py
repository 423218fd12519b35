"""The contract of a runtime. `verification` fulfils it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from epmq_export.models.samples import Sample


class Dequantiser(Protocol):
    """A runtime's own code that decodes the bytes of a tensor."""

    def __call__(self, grid: str, raw: NDArray[np.uint8], count: int, /) -> NDArray[np.float32]:
        """Return the values of the bytes `raw`, uint8, on a grid, float32 [count].

        Raises InputError where the runtime knows no such grid, and where the number of bytes does not fit.
        """
        ...


class Runtime(Protocol):
    """A program that runs written files, in a process of its own and with bounds."""

    @property
    def name(self) -> str: ...

    @property
    def packages(self) -> Sequence[str]:
        """Return the distributions that it comes in. The report has their versions."""
        ...

    @property
    def copies(self) -> float:
        """Return how many times the bytes of a model's files this process holds while the runtime runs them:
        0 where it runs in a process of its own.
        """
        ...

    def version(self) -> str:
        """Return its version. Raises MissingRuntime, with what to install, where it is not there."""
        ...

    def outputs(self, path: Path, samples: Sequence[Sample], *, exact: bool = False) -> NDArray[np.float32]:
        """Return the model's outputs, float32 [len(samples), width], for samples of one kind. The runtime
        uses its own tokenizer where it has one that is right.

        By default the model runs as users run it; `exact` keeps the runtime from computing in lower precision
        than the file. Raises InputError where the runtime refuses the file, dies on it, or passes the time or
        memory limit.
        """
        ...

    def reads(self, text: str) -> bool:
        """Return whether its own tokenizer can find a model's tokens in a text, whatever the files say. The
        graph check leaves out the texts in which it cannot.
        """
        ...

    @property
    def dequantiser(self) -> Dequantiser | None:
        """Return the code that decodes tensors as this runtime does, for every grid of the formats that it
        reads, or None where it offers no such code.
        """
        ...

    def notes(self, files: Sequence[Path]) -> dict[str, Any]:
        """Return facts for the report about how it runs the model that consists of these files, such as how
        many linears it fuses. Raises InputError where it refuses one of the files.
        """
        ...
