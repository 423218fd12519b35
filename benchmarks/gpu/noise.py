"""Models of true shapes with random weights, made when they are asked for: nothing is read from a disk."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, PreTrainedTokenizerFast

from benchmarks import ROOT
from epmq_export.models.family import Family
from epmq_export.models.samples import Picture

DEMO = ROOT / "epmq_export" / "demo"
SPREAD = 0.02


@dataclass(frozen=True)
class Noise:
    """Random tensors as a `TensorSource`. The same name and seed give the same values on one kind of device.

    Norms scale by about 1. With a base it is an expert: the base and a change of `rank`, or of full rank.
    """

    shapes: dict[str, tuple[int, ...]]
    device: torch.device
    seed: int = 0
    base: "Noise | None" = None
    rank: int | None = None

    def names(self) -> list[str]:
        return sorted(self.shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32

    def load(self, name: str) -> Tensor:
        """Return a tensor, float32, on the device of the source."""
        shape = self.shapes[name]
        if self.base is None:
            return self._random(name, shape) * SPREAD + ("norm" in name)
        value = self.base.load(name)
        if len(shape) != 2 or "embed" in name:
            return value
        if self.rank is None:
            return value.add_(self._random(name, shape), alpha=0.1 * SPREAD)
        left, right = (self._random(name, sizes) for sizes in ((shape[0], self.rank), (self.rank, shape[1])))
        return value.addmm_(left, right, alpha=0.1 * SPREAD / self.rank**0.5)

    def _random(self, name: str, shape: tuple[int, ...]) -> Tensor:
        digest = hashlib.sha256(f"{self.seed} {name} {shape}".encode()).digest()
        generator = torch.Generator(self.device).manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.randn(shape, generator=generator, device=self.device)


@dataclass(frozen=True)
class Mean:
    """The mean of experts, as a `TensorSource`."""

    experts: Sequence[Noise]

    def names(self) -> list[str]:
        return self.experts[0].names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.experts[0].shape(name)

    def load(self, name: str) -> Tensor:
        total = self.experts[0].load(name)
        for expert in self.experts[1:]:
            total += expert.load(name)
        return total.div_(len(self.experts))


@dataclass(frozen=True)
class Experts:
    """A base, experts of it and their mean."""

    family: Family
    device: torch.device
    count: int
    rank: int | None = None
    base: Noise = field(init=False)

    def __post_init__(self) -> None:
        shapes = {
            f"{block.prefix}{path}": tuple(value.shape)
            for block in self.family.blocks
            for path, value in block.build().state_dict().items()
        }
        object.__setattr__(self, "base", Noise(shapes, self.device))

    @property
    def experts(self) -> list[Noise]:
        """Return the experts."""
        base = self.base
        return [Noise(base.shapes, self.device, t + 1, base, self.rank) for t in range(self.count)]


def write_llama(directory: Path, **sizes: Any) -> Path:  # noqa: ANN401
    """Write config and tokenizer of a Llama of these sizes, which are LlamaConfig's. Its tokens are those of
    the demo's texts.
    """
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=sizes["vocab_size"],
        special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(lines(), trainer)
    fast: Any = PreTrainedTokenizerFast  # Some versions of it have no type hints.
    tokenizer = fast(tokenizer_object=learner, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.save_pretrained(directory)
    config = LlamaConfig(bos_token_id=0, eos_token_id=1, architectures=["LlamaForCausalLM"], **sizes)
    config.save_pretrained(directory)
    return directory


def lines() -> list[str]:
    """Return the demo's texts."""
    files = sorted((DEMO / "text").glob("*/calibration.txt"))
    return [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line]


def texts(count: int, words: int, seed: int) -> list[str]:
    """Return texts of as many words, put together of the demo's."""
    random = np.random.Generator(np.random.PCG64(seed))
    pool = " ".join(lines()).split()
    return [" ".join(random.choice(pool, words)) for _ in range(count)]


def pictures(count: int, side: int, seed: int) -> list[Picture]:
    """Return pictures of coarse noise."""
    random = np.random.Generator(np.random.PCG64(seed))
    made = []
    for i in range(count):
        pixels = random.integers(0, 256, (side // 8, side // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        digest = hashlib.sha256(pixels.tobytes()).hexdigest()
        made.append(Picture(f"noise {seed}, {i}", digest, lambda pixels=pixels: pixels))  # type: ignore[misc]
    return made
