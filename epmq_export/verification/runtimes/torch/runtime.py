"""The runtime PyTorch, in this process, on the CPU: a directory of Hugging Face, opened by its own config and
tokenizer, and run by the library's own modules in float32.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from epmq_export.errors import InputError
from epmq_export.models import reference
from epmq_export.models.family import Family, towers
from epmq_export.models.samples import Picture, Sample
from epmq_export.tensors.shards import StoredWeights


class Torch:
    """PyTorch, which runs the model of a directory as its config and tokenizer say."""

    name = "torch"
    packages = ("torch", "transformers")
    copies = 0.0  # One block is read at a time.
    dequantiser = None  # The files have values, and no codes.

    def __init__(self, open_family: Callable[[Path], Family]) -> None:
        """Take the function that opens the family of a model's directory."""
        self._open_family = open_family

    def version(self) -> str:
        return str(torch.__version__)

    def outputs(self, path: Path, samples: Sequence[Sample], *, exact: bool = False) -> NDArray[np.float32]:
        """Return the outputs, float32 [len(samples), width], as `Runtime.outputs` says. All are exact.

        Raises InputError where the directory is no model of a known family or lacks a tensor, and for samples
        that none of its towers reads.
        """
        family = self._open_family(path.parent)
        pictures = {isinstance(sample, Picture) for sample in samples}
        tower = next(
            (tower for tower in towers(family) if pictures == {tower.images is not None}),
            None,
        )
        if tower is None:
            raise InputError(
                f"{path}: found samples of another kind than {family.name} reads, expected one kind"
            )
        return reference.outputs(tower, StoredWeights(path.parent), samples, torch.device("cpu"))

    def reads(self, text: str) -> bool:
        return True

    def notes(self, files: Sequence[Path]) -> dict[str, Any]:
        """Return nothing: there is nothing to tell of how it runs them."""
        return {}
