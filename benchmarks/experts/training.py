"""What all trainings have in common: their options, the loop down the loss, and how an adapter is kept."""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from epmq_export import files

Descent = tuple[Optimizer, LambdaLR]
"""What takes the steps, and how long each is."""


@dataclass(frozen=True)
class Settings:
    """What decides a training, beside its model and its data."""

    steps: int
    batch_size: int
    rate: float
    seed: int = 0
    device: torch.device = torch.device("cpu")  # noqa: RUF009


def add_options(parser: argparse.ArgumentParser, steps: str, batch_size: int, rate: str) -> None:
    """Add what every training is told; `steps` and `rate` say their defaults in words."""
    parser.add_argument("--data", type=Path, required=True, help="the folder of the tasks' data")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write models into")
    parser.add_argument("--steps", type=int, default=None, help=f"default {steps}")
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--rate", type=float, default=None, help=f"the learning rate; default {rate}")
    parser.add_argument("--seed", type=int, default=0)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add where to train, for a training that can choose."""
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N; default: cpu")


def settings(given: argparse.Namespace, steps: int, rate: float) -> Settings:
    """Return what was asked for, with these defaults."""
    device = torch.device(getattr(given, "device", "cpu"))
    return Settings(given.steps or steps, given.batch_size, given.rate or rate, given.seed, device)


def unfinished(names: Iterable[str], out: Path) -> Iterator[str]:
    """Yield the names that `out` holds nothing of yet; say so of the others."""
    for name in names:
        if (out / name).exists():
            print(f"{name}: already there")
        else:
            yield name


def add_image_options(options: argparse.ArgumentParser, tasks: Iterable[str]) -> None:
    """Add what to train: the base of the image tasks, or experts of some of them."""
    options.add_argument("what", choices=("base", "experts"))
    options.add_argument("tasks", nargs="*", metavar="TASK", help=f"default: {' '.join(tasks)}")


def train_images(
    given: argparse.Namespace,
    tasks: Iterable[str],
    base: Callable[[], None],
    expert: Callable[[str], None],
) -> None:
    """Train what was asked for and is not there yet."""
    if given.what == "base":
        for _ in unfinished(["base"], given.out):
            base()
    else:
        for task in unfinished(given.tasks or tasks, given.out):
            expert(task)


def linear_descent(model: nn.Module, given: Settings, warm: int) -> Descent:
    """Return AdamW on all that learns in a model: `warm` steps up to the rate, a line down to nothing."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = AdamW(learning, lr=given.rate, weight_decay=0.01)
    return optimiser, LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, (given.steps - step) / given.steps)
    )


def cosine_descent(parameters: Iterable[nn.Parameter], rate: float, steps: int) -> Descent:
    """Return AdamW that lets no vector decay: a twentieth of the steps up to the rate, then half a cosine."""
    every = list(parameters)
    matrices, vectors = [p for p in every if p.ndim > 1], [p for p in every if p.ndim < 2]
    optimiser = AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.98),
    )
    warm = max(1, steps // 20)

    def share(step: int) -> float:
        done = max(0, step - warm) / max(1, steps - warm)
        return float(min((step + 1) / warm, 0.5 * (1 + np.cos(np.pi * done))))

    return optimiser, LambdaLR(optimiser, share)


def fit(name: str, model: nn.Module, loss: Callable[[int], Tensor], descent: Descent, steps: int) -> None:
    """Take steps down the loss, no gradient longer than 1, and print its running mean.

    `loss` is given the number of the step and returns the loss of a batch; the model is in the mode that the
    caller has put it in.
    """
    optimiser, schedule = descent
    started, running = time.monotonic(), 0.0
    for step in range(steps):
        found = loss(step)
        optimiser.zero_grad()
        found.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        running = 0.95 * running + 0.05 * found.item()
        if step % 25 == 24 or step == steps - 1:
            mean, seconds = running / (1 - 0.95 ** (step + 1)), time.monotonic() - started
            print(f"{name} step {step + 1}/{steps} loss {mean:.3f} {seconds:.0f} s", flush=True)


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the row numbers of one batch after another, int64 [size], without end: `count` rows in a random
    order, then in another. What is left of an order for less than a batch is left out.
    """
    while True:
        order = torch.randperm(count, generator=generator)
        for start in range(0, max(count - size, 0) + 1, size):
            yield order[start : start + size]


def save_adapter(model: Any, out: Path) -> None:  # noqa: ANN401
    """Keep a LoRA adapter, its weights in float16, without PEFT's empty model card."""
    with files.whole(out) as built:
        model.save_pretrained(built)
        weights = built / "adapter_model.safetensors"
        halves = {name: value.half() for name, value in load_file(weights).items()}
        save_file(halves, weights, metadata={"format": "pt"})
        (built / "README.md").unlink(missing_ok=True)
