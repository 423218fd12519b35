"""A random BERT of two layers and experts near it, in memory, and calibrations of it."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from converters import open_family
from epmq_export.calibration.anchor import with_length
from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import BlockResult, Calibrator, TaskData
from epmq_export.calibration.method import PRESETS, Method
from epmq_export.grids.layout import Layout
from epmq_export.models.family import Family
from epmq_export.tensors.packed import PackedTensor
from tests.tiny.bert import small_bert
from tests.tiny.in_memory import InMemory

CPU = torch.device("cpu")
LETTERS = (
    "the",
    "weather",
    "is",
    "good",
    "Good",
    "café",
    "cafe",
    "中",
    "ß",
    "é",
    "!",
    ",",
    *string.ascii_lowercase,
)


def texts(seed: int, count: int) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (count,), generator=generator).tolist()
    return [
        " ".join(LETTERS[i] for i in torch.randint(len(LETTERS), (length,), generator=generator).tolist())
        for length in lengths
    ]


@dataclass(frozen=True)
class Tiny:
    family: Family
    base: InMemory
    experts: Sequence[InMemory]
    merged: InMemory

    def tasks(self, experts: Sequence[InMemory] | None = None, count: int = 20) -> list[TaskData]:
        chosen = self.experts if experts is None else experts
        return [TaskData(f"task{t}", expert, texts(t, count)) for t, expert in enumerate(chosen)]

    def calibrator(
        self,
        method: str | Method,
        tasks: Sequence[TaskData] | None = None,
        layout: Layout | None = None,
        **other: object,
    ) -> Calibrator:
        chosen = PRESETS[method] if isinstance(method, str) else method
        if chosen.rho == "auto":
            chosen = with_length(chosen, self.family, self.base, self.experts, self.merged)
        arguments: dict[str, object] = {"base": self.base, "merged": self.merged, **other}
        return Calibrator(
            family=self.family,
            tasks=tasks or self.tasks(),
            method=chosen,
            layout=layout or Layout(),
            device=CPU,
            **arguments,
        )  # type: ignore[arg-type]


def tiny(directory: Path) -> Tiny:
    """Make a model with weights large enough that inputs are far from normal, norms and biases that are not
    their initial ones, and three experts.
    """
    source = small_bert(directory)
    torch.manual_seed(0)
    model = BertModel(BertConfig.from_pretrained(source), add_pooling_layer=False)

    def moved(state: dict[str, Tensor], by: float) -> dict[str, Tensor]:
        return {name: value + by * torch.randn(value.shape) for name, value in state.items()}

    base = moved(model.state_dict(), 0.05)
    experts = [moved(base, 0.02) for _ in range(3)]
    merged = {
        name: value + 0.3 * sum((expert[name] - value for expert in experts), torch.zeros(()))
        for name, value in base.items()
    }
    return Tiny(
        open_family(source), InMemory(base), [InMemory(expert) for expert in experts], InMemory(merged)
    )


def flat(results: Sequence[BlockResult]) -> dict[str, PackedTensor | Tensor]:
    return {name: value for result in results for name, value in result.tensors.items()}


def bits(value: PackedTensor | Tensor) -> bytes:
    parts = (value.codes, *value.stored.values()) if isinstance(value, PackedTensor) else (value,)
    return b"".join(part.contiguous().numpy().tobytes() for part in parts)


def calibrated(calibrator: Calibrator) -> list[BlockResult]:
    return [result for _, result in calibrate_blocks(calibrator)]


def same_bits(one: Sequence[BlockResult], other: Sequence[BlockResult]) -> bool:
    left, right = flat(one), flat(other)
    equal = left.keys() == right.keys() and all(bits(left[name]) == bits(right[name]) for name in left)
    return equal and [result.losses for result in one] == [result.losses for result in other]
