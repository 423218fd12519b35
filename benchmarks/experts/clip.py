"""Train a small CLIP of OpenAI's architecture, 12 + 12 layers, and one expert of it for each image task.

    python -m benchmarks.experts.clip --data DATA/image --out CACHE base
    python -m benchmarks.experts.clip --data DATA/image --out CACHE experts cifar10 gtsrb ...

DATA/image holds `TASK.npz` with uint8 `x_train, y_train, x_test, y_test` and `labels`. The base learns from
the images of all tasks and from prompts of their classes, half of which are wrong (BESIDE), contrastively:
each image against every prompt, each prompt against every image. Its text tower is locked then: before that
it learns to tell the classes' prompts apart, which images alone would teach it far more slowly. An expert
learns from all training images of one task against the base's frozen zero-shot head; only its image tower
moves, as in the published experts (FusionBench). A finished model is skipped, so an interrupted run goes on.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from benchmarks.commands import parser
from benchmarks.experts import training
from benchmarks.experts.clip_model import (
    SIZE,
    accuracy,
    image_features,
    save,
    scaled,
    text_features,
    tokenizer_of,
    untrained,
    zero_shot,
)
from benchmarks.experts.image_tasks import TASKS, names, read
from benchmarks.experts.training import Settings

# Half of the base's captions name the class's neighbour (the classes in pairs), as captions of the web are
# often beside the point: its features become as good as the images allow, and which class of a pair it is is
# left for the experts to learn.
BESIDE = 0.5


def prompts_of(data: Path) -> dict[str, list[list[str]]]:
    """Return the prompts of each class of each task."""
    return {
        task: [[template.format(name) for template in TASKS[task].templates] for name in names(data, task)]
        for task in TASKS
    }


def pixels_of(data: Path, task: str, split: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the images as the processor resizes them, uint8 [n, 3, SIZE, SIZE], and labels, int64 [n]."""
    images = read(data, task, split)
    resized = [
        np.asarray(Image.fromarray(array).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        for array in images.pixels[:limit]
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(
        images.labels[:limit]
    )


def augmented(pixels: Tensor, mirrored: Tensor, generator: torch.Generator) -> Tensor:
    """Shift images by up to two pixels, mirror them where that changes no class, make them brighter or
    darker; uint8 in, float32 of CLIP's scale out.

    Shifts of eight pixels took most of what so short a training could learn: 23 instead of 56 percent on
    mnist after 80 steps.
    """
    reach, n = SIZE // 32, len(pixels)
    padded = nn.functional.pad(pixels.float(), (reach,) * 4, mode="replicate")
    shift = torch.randint(0, 2 * reach + 1, (n, 2), generator=generator)
    rows = shift[:, 0, None] + torch.arange(SIZE)
    columns = shift[:, 1, None] + torch.arange(SIZE)
    flip = mirrored & (torch.rand(n, generator=generator) < 0.5)
    columns[flip] = columns[flip].flip(1)
    index = torch.arange(n)[:, None, None]
    cut = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    light = 1 + 0.3 * (torch.rand(n, 1, 1, 1, generator=generator) - 0.5)
    return scaled((cut * light).clamp(0, 255))


def tell_apart(model: CLIPModel, tokenizer: CLIPTokenizer, classes: list[list[str]], steps: int = 60) -> None:
    """Teach the text tower that prompts of one class are alike and those of others are not: contrastively,
    one prompt against another of its class.
    """
    draw = random.Random(0)

    def loss(step: int) -> Tensor:
        one, other = (
            text_features(model, tokenizer, [draw.choice(texts) for texts in classes]) for _ in range(2)
        )
        return nn.functional.cross_entropy(20 * one @ other.T, torch.arange(len(classes)))

    learning = [*model.text_model.parameters(), model.text_projection.weight]
    training.fit("texts", model, loss, training.cosine_descent(learning, 5e-4, steps), steps)


@dataclass(frozen=True)
class Mixture:
    """The training images of all tasks; a class's number counts those of the tasks before it."""

    pixels: Tensor
    """uint8 [images, 3, SIZE, SIZE]."""

    labels: Tensor
    """int64 [images]."""

    neighbours: Tensor
    """The other class of each label's pair, the label itself where it has none: int64 [images]."""

    mirrored: Tensor
    """Whether an image's mirror image is of the same class: bool [images]."""

    @classmethod
    def read(cls, data: Path, prompts: Mapping[str, list[list[str]]]) -> "Mixture":
        parts, offset = [], 0
        for task in TASKS:
            pixels, labels = pixels_of(data, task, "train")
            beside = torch.where((labels ^ 1) < len(prompts[task]), labels ^ 1, labels)
            mirrored = torch.full((len(labels),), TASKS[task].mirrored)
            parts.append((pixels, labels + offset, beside + offset, mirrored))
            offset += len(prompts[task])
        return cls(*(torch.cat(part) for part in zip(*parts, strict=True)))


def train_base(data: Path, out: Path, given: Settings) -> None:
    """Train the base from nothing: its texts first, then, with these locked, its images."""
    torch.manual_seed(given.seed)
    prompts = prompts_of(data)
    flat = [texts for task in TASKS for texts in prompts[task]]
    tokenizer = tokenizer_of([text for texts in flat for text in texts], out.with_name("tokenizer"))
    model = untrained(tokenizer)
    mixture = Mixture.read(data, prompts)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{len(mixture.pixels)} images, {len(flat)} classes, {size:.1f} M parameters", flush=True)
    tell_apart(model, tokenizer, flat)
    with torch.no_grad():
        known = torch.stack(
            [text_features(model, tokenizer, texts) for texts in zip(*flat, strict=True)]
        )  # [prompts a class, classes, width]
    generator = torch.Generator().manual_seed(given.seed)
    draw = training.batches(len(mixture.pixels), given.batch_size, generator)

    def loss(step: int) -> Tensor:
        rows = next(draw)
        images = image_features(model, augmented(mixture.pixels[rows], mixture.mirrored[rows], generator))
        texts = known[torch.randint(len(known), (len(flat),), generator=generator), torch.arange(len(flat))]
        scale: Tensor = model.logit_scale.exp().clamp(max=100)
        wrong = torch.rand(len(rows), generator=generator) < BESIDE
        truth = torch.where(wrong, mixture.neighbours[rows], mixture.labels[rows])
        return contrastive(scale * images @ texts.T, truth)

    learning = [*model.vision_model.parameters(), model.visual_projection.weight, model.logit_scale]
    model.train()
    training.fit("base", model, loss, training.cosine_descent(learning, given.rate, given.steps), given.steps)
    for task in TASKS:
        score = accuracy(
            model, zero_shot(model, tokenizer, prompts[task]), *pixels_of(data, task, "held_out")
        )
        print(f"base on {task}: accuracy {score:.3f} on held-out images", flush=True)
    save(model, tokenizer, out)


def contrastive(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the loss of scores [images, prompts], each image's right prompt being `truth`: of every image
    among the prompts, and, of every prompt that has any here, of its images among all.
    """
    member = nn.functional.one_hot(truth, logits.shape[1]).T.float()
    present = member.sum(1) > 0
    backward = -(logits.T.log_softmax(1)[present] * member[present]).sum(1) / member[present].sum(1)
    return (nn.functional.cross_entropy(logits, truth) + backward.mean()) / 2


def train_expert(data: Path, base: Path, task: str, out: Path, given: Settings) -> None:
    """Train the image tower against the base's zero-shot head of the task."""
    torch.manual_seed(given.seed)
    tokenizer = CLIPTokenizer.from_pretrained(base)
    model: CLIPModel = CLIPModel.from_pretrained(base)
    model.train(False)
    head = zero_shot(model, tokenizer, prompts_of(data)[task])
    scale = float(model.logit_scale.exp().detach())
    model.requires_grad_(False)
    model.vision_model.requires_grad_(True)
    pixels, labels = pixels_of(data, task, "train")
    mirrored = torch.full((len(labels),), TASKS[task].mirrored)
    generator = torch.Generator().manual_seed(given.seed)
    draw = training.batches(len(pixels), given.batch_size, generator)

    def loss(step: int) -> Tensor:
        rows = next(draw)
        images = image_features(model, augmented(pixels[rows], mirrored[rows], generator))
        return nn.functional.cross_entropy(scale * images @ head.T, labels[rows])

    descent = training.cosine_descent(model.vision_model.parameters(), given.rate, given.steps)
    model.train()
    training.fit(task, model, loss, descent, given.steps)
    score = accuracy(model, head, *pixels_of(data, task, "held_out"))
    print(f"{task}: accuracy {score:.3f} on held-out images", flush=True)
    save(model, tokenizer, out)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("experts.clip", __doc__)
    training.add_image_options(options, TASKS)
    training.add_options(
        options, "1800 for the base, 200 for an expert", 128, "1e-3 for the base, 2e-4 for an expert"
    )
    given = options.parse_args(arguments)
    base = given.out / "base"
    training.train_images(
        given,
        TASKS,
        lambda: train_base(given.data, base, training.settings(given, 1800, 1e-3)),
        lambda task: train_expert(
            given.data, base, task, given.out / task, training.settings(given, 200, 2e-4)
        ),
    )


if __name__ == "__main__":
    main()
