"""Fine-tune DINOv2-small, a pretrained image model, into one expert for each image task, with a frozen linear
head for each.

    python -m benchmarks.experts.vit --data DATA/image --out CACHE base
    python -m benchmarks.experts.vit --data DATA/image --out CACHE experts cifar10 gtsrb ...

The base is that of `python -m benchmarks.experts.dinov2`, its table of positions resized once for small
images. A task's head stands in for a zero-shot one: it knows SHOTS training images of each class, and each
class's weights are their mean feature. It is frozen; an expert moves the whole image model towards it. A
finished model is skipped, so an interrupted run goes on.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Dinov2Model
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

from benchmarks.commands import parser
from benchmarks.experts import training
from benchmarks.experts.dinov2 import PATCH, model_of, packaged
from benchmarks.experts.image_tasks import TASKS, names, read
from benchmarks.experts.training import Settings
from epmq_export import files

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
    """Return the same model for images of SIDE pixels: its positions are interpolated once, as transformers
    does at every call.
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
    """Return images of the processor's scale, float32 [n, 3, SIDE, SIDE], and their labels, int64 [n]."""
    images = read(data, task, split)
    pictures = [Image.fromarray(array).convert("RGB") for array in images.pixels[:limit]]
    found = [
        np.asarray(PROCESSOR(pictures[i : i + 500], return_tensors="np")["pixel_values"])
        for i in range(0, len(pictures), 500)
    ]
    return torch.from_numpy(np.concatenate(found)), torch.from_numpy(images.labels[:limit])


def features(model: Dinov2Model, pixels: Tensor) -> Tensor:
    """Return the pooled output on the model's device, float32 [images, width]."""
    found: Tensor = model(pixel_values=pixels.to(model.device)).pooler_output
    return found.float()


@torch.no_grad()
def head_of(model: Dinov2Model, pixels: Tensor, labels: Tensor, classes: int) -> dict[str, Tensor]:
    """Return a head, weight [classes, width] and bias [classes]: its scores are the cosines between what a
    feature and a class's mean feature have beside the task's mean.
    """
    rows = torch.cat([(labels == c).nonzero()[:SHOTS, 0] for c in range(classes)])
    found = torch.cat([features(model, part).cpu() for part in torch.split(pixels[rows], 100)])
    owner = labels[rows]
    means = torch.stack([found[owner == c].mean(0) for c in range(classes)])
    centre = means.mean(0)
    length = (found - centre).norm(dim=1).mean()
    weight = SHARPNESS * nn.functional.normalize(means - centre, dim=1) / length
    return {"weight": weight.contiguous(), "bias": -(weight @ centre)}


@torch.no_grad()
def accuracy(model: Dinov2Model, head: dict[str, Tensor], pixels: Tensor, labels: Tensor) -> float:
    """Return the share of images that the head puts into their class."""
    model.train(False)
    found = [
        nn.functional.linear(features(model, part).cpu(), head["weight"], head["bias"]).argmax(1)
        for part in torch.split(pixels, 100)
    ]
    return float((torch.cat(found) == labels).float().mean())


def save(model: Dinov2Model, out: Path) -> None:
    """Keep a model as a directory of the hub's kind."""
    with files.whole(out) as built:
        model.save_pretrained(built)
        PROCESSOR.save_pretrained(built)


def train_base(data: Path, out: Path) -> None:
    """Make the base, which learns nothing, and the heads of all tasks."""
    model = small(model_of(packaged()))
    model.train(False)
    (out / "heads").mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        pixels, labels = pixels_of(data, task, "train", 6000)
        head = head_of(model, pixels, labels, len(names(data, task)))
        save_file(head, out / "heads" / f"{task}.safetensors")
        score = accuracy(model, head, *pixels_of(data, task, "held_out"))
        print(f"base on {task}: accuracy {score:.3f} on held-out images", flush=True)
    save(model, out / "base")


def train_expert(data: Path, out: Path, task: str, given: Settings) -> None:
    """Train the whole model against the task's head."""
    torch.manual_seed(given.seed)
    model: Dinov2Model = Dinov2Model.from_pretrained(out / "base")
    nn.Module.to(model, given.device)
    head = load_file(out / "heads" / f"{task}.safetensors")
    weight, bias = (head[name].to(given.device) for name in ("weight", "bias"))
    pixels, labels = pixels_of(data, task, "train", given.batch_size * given.steps)
    draw = training.batches(len(pixels), given.batch_size, torch.Generator().manual_seed(given.seed))

    def loss(step: int) -> Tensor:
        rows = next(draw)
        batch = pixels[rows]
        if TASKS[task].mirrored and step % 2:
            batch = batch.flip(3)
        scores = nn.functional.linear(features(model, batch), weight, bias)
        return nn.functional.cross_entropy(scores, labels[rows].to(given.device))

    descent = training.cosine_descent(model.parameters(), given.rate, given.steps)
    model.train()
    training.fit(task, model, loss, descent, given.steps)
    score = accuracy(model, head, *pixels_of(data, task, "held_out"))
    print(f"{task}: accuracy {score:.3f} on held-out images", flush=True)
    save(model, out / task)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("experts.vit", __doc__)
    training.add_image_options(options, TASKS)
    training.add_options(options, "100", 32, "5e-5")
    training.add_device(options)
    given = options.parse_args(arguments)
    training.train_images(
        given,
        TASKS,
        lambda: train_base(given.data, given.out),
        lambda task: train_expert(given.data, given.out, task, training.settings(given, 100, 5e-5)),
    )


if __name__ == "__main__":
    main()
