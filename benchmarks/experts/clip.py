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

import argparse
import json
import random
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Regex as Pattern
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks.experts.image_tasks import TASKS, names, read

SIZE, PATCH, CONTEXT = 64, 16, 32
LAYERS, WIDTH, HEADS = 12, 192, 3
VOCABULARY = 1024
# Half of the base's captions name the class's neighbour (the classes in pairs), as captions of the web are
# often beside the point: its features become as good as the images allow, and which class of a pair it is is
# left for the experts to learn.
BESIDE = 0.5
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def tokenizer_of(prompts: Sequence[str], out: Path) -> CLIPTokenizer:
    """CLIP's byte-level BPE with `</w>`, learnt from the prompts."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Pattern(r"\s+"), " "), normalizers.Lowercase()]
    )
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Pattern(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(prompts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    merges: Any = [tuple(pair) for pair in learnt["merges"]]
    # The order of OpenAI's vocabulary: bytes, bytes that end a word, merges, the two special tokens.
    order = [
        *alphabet,
        *(byte + "</w>" for byte in alphabet),
        *dict.fromkeys("".join(pair) for pair in merges),
    ]
    tokens = {token: index for index, token in enumerate([*dict.fromkeys(order), *SPECIAL])}
    tokenizer = CLIPTokenizer(vocab=tokens, merges=merges, model_max_length=CONTEXT)
    tokenizer.save_pretrained(out)
    return tokenizer


def prompts_of(data: Path) -> dict[str, list[list[str]]]:
    """By task: for each class, its prompts."""
    return {
        task: [[template.format(name) for template in TASKS[task].templates] for name in names(data, task)]
        for task in TASKS
    }


def pixels_of(data: Path, task: str, split: str, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """uint8 [n, 3, SIZE, SIZE] as the processor resizes them, int64 [n]."""
    images = read(data, task, split)
    resized = [
        np.asarray(Image.fromarray(array).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))
        for array in images.pixels[:limit]
    ]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(
        images.labels[:limit]
    )


def augmented(pixels: Tensor, mirrored: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted by up to two pixels, mirrored where that changes no class, brighter or darker; uint8 in,
    float32 of CLIP's scale out.

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


def scaled(pixels: Tensor) -> Tensor:
    return (
        pixels.float() / 255 - torch.tensor(CLIPImageProcessorPil.image_mean).view(3, 1, 1)
    ) / torch.tensor(CLIPImageProcessorPil.image_std).view(3, 1, 1)


def image_features(model: CLIPModel, pixels: Tensor) -> Tensor:
    features = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    return nn.functional.normalize(features.float(), dim=-1)


def text_features(model: CLIPModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    batch = tokenizer(list(texts), padding=True, return_tensors="pt")
    features = model.text_projection(model.text_model(**batch).pooler_output)
    return nn.functional.normalize(features.float(), dim=-1)


@torch.no_grad()
def zero_shot(model: CLIPModel, tokenizer: CLIPTokenizer, prompts: list[list[str]]) -> Tensor:
    """[classes, width]: of each class the mean of its prompts' unit features, of unit length."""
    return torch.stack(
        [nn.functional.normalize(text_features(model, tokenizer, texts).mean(0), dim=0) for texts in prompts]
    )


@torch.no_grad()
def accuracy(model: CLIPModel, head: Tensor, pixels: Tensor, labels: Tensor) -> float:
    model.train(False)
    found = [(image_features(model, scaled(part)) @ head.T).argmax(1) for part in torch.split(pixels, 100)]
    return float((torch.cat(found) == labels).float().mean())


def optimiser_of(
    parameters: list[nn.Parameter], rate: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    decayed, plain = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.98),
    )
    warm = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min(
            (step + 1) / warm, 0.5 * (1 + np.cos(np.pi * max(0, step - warm) / max(1, steps - warm)))
        ),
    )
    return optimiser, schedule


def descend(
    loss: Tensor,
    parameters: Iterable[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> None:
    """One step, its gradient no longer than 1."""
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    schedule.step()


def save(model: CLIPModel, tokenizer: CLIPTokenizer, out: Path) -> None:
    partial = out.with_name(out.name + ".partial")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
    ).save_pretrained(partial)
    partial.rename(out)


def untrained(tokenizer: CLIPTokenizer) -> CLIPModel:
    shared = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "hidden_act": "quick_gelu",
    }
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in SPECIAL)
    ids = {
        "vocab_size": len(tokenizer),
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
        "max_position_embeddings": CONTEXT,
    }
    sizes = {"image_size": SIZE, "patch_size": PATCH}
    return CLIPModel(CLIPConfig(text_config=shared | ids, vision_config=shared | sizes, projection_dim=WIDTH))


def tell_apart(model: CLIPModel, tokenizer: CLIPTokenizer, classes: list[list[str]], steps: int = 60) -> None:
    """Teach the text tower that prompts of one class are alike and those of others are not: contrastively,
    one prompt against another of its class.
    """
    parameters = [*model.text_model.parameters(), model.text_projection.weight]
    optimiser, schedule = optimiser_of(parameters, 5e-4, steps)
    draw = random.Random(0)
    for step in range(steps):
        one, other = (
            text_features(model, tokenizer, [draw.choice(texts) for texts in classes]) for _ in range(2)
        )
        loss = nn.functional.cross_entropy(20 * one @ other.T, torch.arange(len(classes)))
        descend(loss, parameters, optimiser, schedule)
        if step % 25 == 24:
            print(f"texts step {step + 1}/{steps} loss {loss.item():.3f}", flush=True)


def train_base(data: Path, out: Path, steps: int, batch_size: int, rate: float, seed: int) -> None:
    torch.manual_seed(seed)
    prompts = prompts_of(data)
    flat = [texts for task in TASKS for texts in prompts[task]]
    tokenizer = tokenizer_of([text for texts in flat for text in texts], out.with_name("tokenizer"))
    model = untrained(tokenizer)
    parts, offset = [], 0
    for task in TASKS:
        pixels, labels = pixels_of(data, task, "train")
        beside = torch.where((labels ^ 1) < len(prompts[task]), labels ^ 1, labels)
        parts.append(
            (pixels, labels + offset, beside + offset, torch.full((len(labels),), TASKS[task].mirrored))
        )
        offset += len(prompts[task])
    pixels, labels, neighbours, mirrored = (torch.cat(part) for part in zip(*parts, strict=True))
    print(
        (
            f"{len(pixels)} images, {len(flat)} classes, {steps} steps, "
            f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters"
        ),
        flush=True,
    )
    tell_apart(model, tokenizer, flat)
    with torch.no_grad():
        known = torch.stack(
            [text_features(model, tokenizer, texts) for texts in zip(*flat, strict=True)]
        )  # [prompts a class, classes, width]
    learning = [*model.vision_model.parameters(), model.visual_projection.weight, model.logit_scale]
    optimiser, schedule = optimiser_of(learning, rate, steps)
    generator = torch.Generator().manual_seed(seed)
    started, order = time.monotonic(), torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(order) < batch_size:
            order = torch.randperm(len(pixels), generator=generator)
        rows, order = order[:batch_size], order[batch_size:]
        model.train()
        images = image_features(model, augmented(pixels[rows], mirrored[rows], generator))
        texts = known[torch.randint(len(known), (len(flat),), generator=generator), torch.arange(len(flat))]
        scale: Tensor = model.logit_scale.exp().clamp(max=100)
        logits = scale * images @ texts.T
        truth = torch.where(
            torch.rand(batch_size, generator=generator) < BESIDE, neighbours[rows], labels[rows]
        )
        # The other direction: of all images, those of a prompt's class, for the prompts that have any here.
        member = nn.functional.one_hot(truth, len(flat)).T.float()
        present = member.sum(1) > 0
        backward = -(logits.T.log_softmax(1)[present] * member[present]).sum(1) / member[present].sum(1)
        loss = (nn.functional.cross_entropy(logits, truth) + backward.mean()) / 2
        descend(loss, model.parameters(), optimiser, schedule)
        if step % 25 == 24:
            print(
                f"base step {step + 1}/{steps} loss {loss.item():.3f} {time.monotonic() - started:.0f} s",
                flush=True,
            )
    report(model, tokenizer, data, prompts)
    save(model, tokenizer, out)


def report(
    model: CLIPModel, tokenizer: CLIPTokenizer, data: Path, prompts: dict[str, list[list[str]]]
) -> None:
    model.train(False)
    for task in TASKS:
        pixels, labels = pixels_of(data, task, "held_out")
        print(
            (
                f"base on {task}: accuracy "
                f"{accuracy(model, zero_shot(model, tokenizer, prompts[task]), pixels, labels):.3f} on "
                "held-out images"
            ),
            flush=True,
        )


def train_expert(
    data: Path, base: Path, task: str, out: Path, steps: int, batch_size: int, rate: float, seed: int
) -> None:
    torch.manual_seed(seed)
    tokenizer = CLIPTokenizer.from_pretrained(base)
    model: CLIPModel = CLIPModel.from_pretrained(base)
    model.train(False)
    head = zero_shot(model, tokenizer, prompts_of(data)[task])
    scale = float(model.logit_scale.exp().detach())
    model.requires_grad_(False)
    model.vision_model.requires_grad_(True)
    pixels, labels = pixels_of(data, task, "train")
    mirrored = torch.full((len(labels),), TASKS[task].mirrored)
    optimiser, schedule = optimiser_of([*model.vision_model.parameters()], rate, steps)
    generator = torch.Generator().manual_seed(seed)
    started, order = time.monotonic(), torch.empty(0, dtype=torch.long)
    for step in range(steps):
        if len(order) < batch_size:
            order = torch.randperm(len(pixels), generator=generator)
        rows, order = order[:batch_size], order[batch_size:]
        model.train()
        images = image_features(model, augmented(pixels[rows], mirrored[rows], generator))
        loss = nn.functional.cross_entropy(scale * images @ head.T, labels[rows])
        descend(loss, model.parameters(), optimiser, schedule)
        if step % 25 == 24:
            print(
                f"{task} step {step + 1}/{steps} loss {loss.item():.3f} {time.monotonic() - started:.0f} s",
                flush=True,
            )
    pixels, labels = pixels_of(data, task, "held_out")
    print(
        (
            f"{task}: accuracy {accuracy(model, head, pixels, labels):.3f} on held-out images, "
            f"{time.monotonic() - started:.0f} s"
        ),
        flush=True,
    )
    save(model, tokenizer, out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("base", "experts"))
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"default: {' '.join(TASKS)}")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--steps", type=int, default=None, help="default 1800 for the base, 200 for an expert"
    )
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument(
        "--rate", type=float, default=None, help="default 1e-3 for the base, 2e-4 for an expert"
    )
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    base = given.out / "base"
    if given.what == "base":
        if base.exists():
            print("base: already there")
        else:
            train_base(
                given.data, base, given.steps or 1800, given.batch_size, given.rate or 1e-3, given.seed
            )
        return
    for task in given.tasks or TASKS:
        if (given.out / task).exists():
            print(f"{task}: already there")
        else:
            train_expert(
                given.data,
                base,
                task,
                given.out / task,
                given.steps or 200,
                given.batch_size,
                given.rate or 2e-4,
                given.seed,
            )


if __name__ == "__main__":
    main()
