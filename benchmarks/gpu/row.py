"""What a check on a GPU has found, and the table of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import machine, today
from benchmarks.tables import table
from epmq_export.tensors.packed import PackedTensor

Tensors = Mapping[str, PackedTensor | Tensor]
HEAD = ("what", "device", "seconds", "accuracy", "loss", "equal codes", "remarks")


@dataclass(frozen=True)
class Request:
    """What is asked of a check."""

    device: torch.device
    """The device that is checked."""

    tiny: bool
    """Whether shapes and data are small enough to try the check itself."""

    work: Path
    """A folder for what is written."""

    minilm: Path | None = None
    """MiniLM's directory, where its package is not installed."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    device: torch.device
    seconds: float | None = None
    accuracy: float | None = None
    """The mean over the tasks, 0..1."""

    loss: float | None = None
    """The mean loss of the linears as they are shipped, a share of their targets' energy."""

    equal: float | None = None
    """The share of codes that are the same as on the processor, 0..1."""

    remarks: str = ""
    passed: bool = True

    def cells(self) -> list[str]:
        """Return the row's cells, in the order of HEAD."""
        told = self.remarks if self.passed else f"**failed**: {self.remarks}"
        return [
            self.what,
            str(self.device),
            "" if self.seconds is None else f"{self.seconds:.1f}",
            "" if self.accuracy is None else f"{100 * self.accuracy:.2f} %",
            "" if self.loss is None else f"{self.loss:.4f}",
            "" if self.equal is None else f"{100 * self.equal:.1f} %",
            told,
        ]


def equal_codes(one: Tensors, other: Tensors) -> float:
    """Return the share of codes that are equal in two sets of tensors with the same names, 0..1."""
    equal = count = 0
    for name, value in one.items():
        again = other[name]
        if isinstance(value, PackedTensor) and isinstance(again, PackedTensor):
            equal += int((value.codes == again.codes).sum())
            count += value.codes.numel()
    return equal / max(count, 1)


def page(rows: Sequence[Row], device: torch.device, tiny: bool) -> str:
    """Return the table in Markdown, with the device's name."""
    said = f"{today()}, {machine(device)}, PyTorch {torch.__version__}."
    if tiny:
        said += " Tiny shapes: this shows that the check runs, and nothing of speed."
    return f"# The check on a GPU\n\n{said}\n\n{table([HEAD, *(row.cells() for row in rows)])}\n"
