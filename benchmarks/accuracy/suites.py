"""The kinds of tasks that accuracy.py measures: where their models and data are, and what a recipe says of a
task.
"""

import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.experts import image_tasks, language_tasks
from benchmarks.experts.text_tasks import packaged_base

CACHE = Path.home() / ".cache/epmq"


@dataclass(frozen=True)
class Suite:
    name: str
    tasks: Sequence[str]
    shown: int
    """How many of the tasks, from the first on, the table is of."""

    subject: str
    """What is measured, in a few words."""

    unit: str
    """What a task has many of."""

    base: Callable[[Path], Path]
    """The base's directory, by that of the experts."""

    experts: Path
    """Where they are, unless told otherwise."""

    data: Path
    results: Path
    """Under benchmarks/results."""

    runtimes: dict[str, str]
    """By stage of a row at 4 bits."""

    train: str
    """The command that trains the experts, without its arguments."""

    entry: Callable[[Path, Path, Path, str, int], dict[str, Any]]
    """What a recipe says of a task besides its expert, given the folders of data and experts, one to write
    into, the task and how much to judge by.
    """

    def file(self, data: Path, task: str) -> Path:
        """A file that a task's data are not there without."""
        return (
            data / task / "test.tsv.gz" if self.name in ("text", "language", "t5") else data / f"{task}.npz"
        )


def _text(data: Path, experts: Path, folder: Path, task: str, lines: int) -> dict[str, Any]:
    evaluation = folder / f"{task}.tsv"
    if not evaluation.exists():
        with gzip.open(data / task / "test.tsv.gz", "rt", encoding="utf-8") as test:
            evaluation.write_text("".join(islice(test, lines)), encoding="utf-8")
    return {
        "calibration": str(data / task / "train.tsv.gz"),
        "evaluation": str(evaluation),
        "labels": str(data / task / "labels.json"),
    }


def _language(data: Path, experts: Path, folder: Path, task: str, lines: int) -> dict[str, Any]:
    asked = language_tasks.TASKS[task]
    labels = json.loads((data / task / "labels.json").read_text(encoding="utf-8"))
    answers = dict(zip(labels, asked.answers, strict=True))
    return _text(data, experts, folder, task, lines) | {"prompt": asked.prompt, "labels": answers}


def _t5(data: Path, experts: Path, folder: Path, task: str, lines: int) -> dict[str, Any]:
    """The questions whole, and their answers to be given word for word."""
    asked = language_tasks.T5_TASKS[task]
    labels = json.loads((data / task / "labels.json").read_text(encoding="utf-8"))
    places = {}
    for split, count in (("train", None), ("test", lines)):
        places[split] = folder / f"{task}-{split}.tsv"
        if not places[split].exists():
            with gzip.open(data / task / f"{split}.tsv.gz", "rt", encoding="utf-8") as file:
                rows = [line.rstrip("\n").split("\t", 1) for line in islice(file, count)]
            # A line of the file is a question; T5's tokenizer takes an end of a line for a space.
            questions = [f"{label}\t{' '.join(asked.asked(text).split())}\n" for label, text in rows]
            places[split].write_text("".join(questions), encoding="utf-8")
    answers = dict(zip(labels, (answer.strip() for answer in asked.answers), strict=True))
    return {
        "calibration": str(places["train"]),
        "evaluation": str(places["test"]),
        "labels": answers,
        "metric": "exact_match",
    }


def _clip(data: Path, experts: Path, folder: Path, task: str, lines: int) -> dict[str, Any]:
    return _image(data, folder, task, lines) | {"templates": list(image_tasks.TASKS[task].templates)}


def _vit(data: Path, experts: Path, folder: Path, task: str, lines: int) -> dict[str, Any]:
    return _image(data, folder, task, lines) | {"head": str(experts / "heads" / f"{task}.safetensors")}


def _image(data: Path, folder: Path, task: str, lines: int) -> dict[str, Any]:
    places = {}
    for split in ("train", "test"):
        places[split] = folder / f"{task}-{split}.npz"
        if not places[split].exists():
            found = image_tasks.read(data, task, split)
            count = lines if split == "test" else None
            np.savez(places[split], images=found.pixels[:count], labels=found.labels[:count])
    return {
        "calibration": {"path": str(places["train"]), "images": "images", "labels": "labels"},
        "evaluation": {"path": str(places["test"]), "images": "images", "labels": "labels"},
        "labels": image_tasks.names(data, task),
    }


SUITES = {
    suite.name: suite
    for suite in (
        # The first eight are the table's; with the last three, runs of 2, 4, 8 and 11 tasks.
        Suite(
            "text",
            (
                "sst2",
                "subj",
                "trec",
                "ag_news",
                "tweet_emotion",
                "banking77",
                "clinc150",
                "sms_spam",
                "cola",
                "mrpc",
                "rte",
            ),
            8,
            "text tasks, all-MiniLM-L6-v2, full fine-tuned experts",
            "sentences",
            lambda experts: packaged_base(),
            CACHE / "experts/minilm-full",
            Path("../shared/data/text"),
            Path(),
            {"packed": "PyTorch", "gguf": "llama.cpp", "onnx": "onnxruntime"},
            "text",
            _text,
        ),
        Suite(
            "image",
            tuple(image_tasks.TASKS),
            6,
            (
                "image tasks, a small CLIP (12 + 12 layers of width 192, 64 pixels), experts with fine-tuned "
                "image towers"
            ),
            "images",
            lambda experts: experts / "base",
            CACHE / "clip",
            Path("../shared/data/image"),
            Path("image"),
            {"packed": "PyTorch", "gguf": "clip.cpp", "onnx": "onnxruntime"},
            "clip",
            _clip,
        ),
        Suite(
            "vit",
            tuple(image_tasks.TASKS),
            6,
            "image tasks, DINOv2-small at 84 pixels, full fine-tuned experts with frozen linear heads",
            "images",
            lambda experts: experts / "base",
            CACHE / "vit",
            Path("../shared/data/image"),
            Path("vit"),
            {"packed": "PyTorch", "onnx": "onnxruntime"},
            "vit",
            _vit,
        ),
        Suite(
            "language",
            tuple(language_tasks.TASKS),
            6,
            (
                "text tasks as multiple choice, SmolLM2-135M-Instruct (from a 4-bit file, dequantised), "
                "LoRA experts"
            ),
            "texts",
            lambda experts: experts.with_name("smollm2"),
            CACHE / "lm/smollm2-experts",
            Path("../shared/data/text"),
            Path("language"),
            {"packed": "PyTorch", "gguf": "llama.cpp"},
            "language --base MODEL",
            _language,
        ),
        Suite(
            "t5",
            tuple(language_tasks.T5_TASKS),
            6,
            (
                "text tasks answered word for word, FLAN-T5-small (from an int8 file of a fine-tune, "
                "dequantised), LoRA experts"
            ),
            "texts",
            lambda experts: experts.with_name("flan-t5-small"),
            CACHE / "lm/flan-t5-small-experts",
            Path("../shared/data/text"),
            Path("t5"),
            {"packed": "PyTorch", "gguf": "llama.cpp", "onnx": "onnxruntime"},
            "language --base MODEL",
            _t5,
        ),
    )
}
TEXT, IMAGE = SUITES["text"], SUITES["image"]
