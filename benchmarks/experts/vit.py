"""Fine-tune DINOv2-small, a pretrained image model, into one expert for each image task, with a frozen linear
head for each.

    python -m benchmarks.experts.vit --data DATA/image --out CACHE base
    python -m benchmarks.experts.vit --data DATA/image --out CACHE experts cifar10 gtsrb ...

The base is that of `python -m benchmarks.experts.dinov2`, its table of positions resized once for small
images. A task's head stands in for a zero-shot one: it knows SHOTS training images of each class, and each
class's weights are their mean feature. It is frozen; an expert moves the whole image model towards it. A
finished model is skipped, so an interrupted run goes on.
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Dinov2Model
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from benchmarks.experts.clip import descend, optimiser_of
from benchmarks.experts.dinov2 import PATCH, model_of, packaged
from benchmarks.experts.image_tasks import TASKS, names, read

SIDE = 84  # pixels: 6 x 6 patches, since most of the tasks' images have 28 to 48
SHOTS = 10
# Logits of a head are cosines of centred features, times this: as sharp as a zero-shot head's.
SHARPNESS = 20.0
PROCESSOR = BitImageProcessorPil(
    size={"height": SIDE, "width": SIDE},
    do_center_crop=False,
    image_mean=[0.485, 0.456, 0.406],
    image_std=[0.229, 0.224, 0.225],
    resample=3,
)


def small(model: Dinov2Model) -> Dinov2Model:
    """The same model for images of SIDE pixels: as transformers does at every call, positions are
    interpolated, once.
    """
    config = copy.deepcopy(model.config)
    config.image_size = SIDE
    patches = model.embeddings.position_embeddings.detach()[:, 1:]
    old, new = int(patches.shape[1] ** 0.5), SIDE // PATCH
    table = patches.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    table = (
        nn.functional.interpolate(table, size=(new, new), mode="bicubic", align_corners=False)
        .permute(0, 2, 3, 1)
        .reshape(1, new * new, -1)
    )
    state = model.state_dict()
    state["embeddings.position_embeddings"] = torch.cat(
        (state["embeddings.position_embeddings"][:, :1], table), 1
    )
    resized: Dinov2Model = Dinov2Model(config)
    resized.load_state_dict(state)
    return resized


def pixels_of(data: Path, task: str, split: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """float32 [n, 3, SIDE, SIDE] of the processor's scale, int64 [n]."""
    images = read(data, task, split)
    pictures = [Image.fromarray(array).convert("RGB") for array in images.pixels[:limit]]
    found = [
        np.asarray(PROCESSOR(pictures[i : i + 500], return_tensors="np")["pixel_values"])
        for i in range(0, len(pictures), 500)
    ]
    return torch.from_numpy(np.concatenate(found)), torch.from_numpy(images.labels[:limit])


def features(model: Dinov2Model, pixels: Tensor) -> Tensor:
    found: Tensor = model(pixel_values=pixels).pooler_output
    return found.float()


@torch.no_grad()
def head_of(model: Dinov2Model, pixels: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
    """weight [classes, width], bias [classes]: scores by the cosine between what a feature and a class's mean
    feature have beside the task's mean.
    """
    rows = torch.cat([(labels == c).nonzero()[:SHOTS, 0] for c in range(classes)])
    found, owner = torch.cat([features(model, part) for part in torch.split(pixels[rows], 100)]), labels[rows]
    means = torch.stack([found[owner == c].mean(0) for c in range(classes)])
    centre = means.mean(0)
    length = (found - centre).norm(dim=1).mean()
    weight = SHARPNESS * nn.functional.normalize(means - centre, dim=1) / length
    return {"weight": weight.contiguous(), "bias": -(weight @ centre)}


@torch.no_grad()
def accuracy(model: Dinov2Model, head: dict[str, Tensor], pixels: Tensor, labels: Tensor) -> float:
    model.train(False)
    found = [
        nn.functional.linear(features(model, part), head["weight"], head["bias"]).argmax(1)
        for part in torch.split(pixels, 100)
    ]
    return float((torch.cat(found) == labels).float().mean())


def save(model: Dinov2Model, out: Path) -> None:
    partial = out.with_name(out.name + ".partial")
    model.save_pretrained(partial)
    PROCESSOR.save_pretrained(partial)
    partial.rename(out)


def train_base(data: Path, out: Path) -> None:
    model = small(model_of(packaged()))
    model.train(False)
    (out / "heads").mkdir(exist_ok=True)
    for task in TASKS:
        pixels, labels = pixels_of(data, task, "train", 6000)
        head = head_of(model, pixels, labels, len(names(data, task)))
        save_file(head, out / "heads" / f"{task}.safetensors")
        print(
            (
                f"base on {task}: accuracy "
                f"{accuracy(model, head, *pixels_of(data, task, 'held_out')):.3f} on "
                "held-out images"
            ),
            flush=True,
        )
    save(model, out / "base")


def train_expert(
    data: Path, out: Path, task: str, steps: int, batch_size: int, rate: float, seed: int
) -> None:
    torch.manual_seed(seed)
    model: Dinov2Model = Dinov2Model.from_pretrained(out / "base")
    head = load_file(out / "heads" / f"{task}.safetensors")
    pixels, labels = pixels_of(data, task, "train", batch_size * steps)
    optimiser, schedule = optimiser_of([*model.parameters()], rate, steps)
    generator = torch.Generator().manual_seed(seed)
    started, order = time.monotonic(), torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(order) < batch_size:
            order = torch.randperm(len(pixels), generator=generator)
        rows, order = order[:batch_size], order[batch_size:]
        model.train()
        batch = pixels[rows]
        if TASKS[task].mirrored and step % 2:
            batch = batch.flip(3)
        loss = nn.functional.cross_entropy(
            nn.functional.linear(features(model, batch), head["weight"], head["bias"]), labels[rows]
        )
        descend(loss, model.parameters(), optimiser, schedule)
        if step % 10 == 9:
            print(
                f"{task} step {step + 1}/{steps} loss {loss.item():.3f} {time.monotonic() - started:.0f} s",
                flush=True,
            )
    found = accuracy(model, head, *pixels_of(data, task, "held_out"))
    print(f"{task}: accuracy {found:.3f} on held-out images, {time.monotonic() - started:.0f} s", flush=True)
    save(model, out / task)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("base", "experts"))
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"default: {' '.join(TASKS)}")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rate", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.what == "base":
        if (given.out / "base").exists():
            print("base: already there")
        else:
            train_base(given.data, given.out)
        return
    for task in given.tasks or TASKS:
        if (given.out / task).exists():
            print(f"{task}: already there")
        else:
            train_expert(given.data, given.out, task, given.steps, given.batch_size, given.rate, given.seed)


if __name__ == "__main__":
    main()
