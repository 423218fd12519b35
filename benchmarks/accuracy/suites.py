"""The kinds of tasks that are measured: where their models are, and what a recipe says of a task."""

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


@dataclass(frozen=True, kw_only=True)
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

    file: str
    """A file that a task's data are not there without, {} for the task, in the folder of the data."""

    results: Path
    """The folder under benchmarks/results."""

    runtimes: dict[str, str]
    """What reads a row at 4 bits, by the row's stage."""

    train: str
    """The command that trains the experts, with {data}, {out} and {tasks}."""

    entry: Callable[[Path, Path, Path, str, int], dict[str, Any]]
    """What a recipe says of a task besides its expert, given the folders of data and experts, one to write
    into, the task and how much to judge by.
    """

    def training(self, data: Path, experts: Path, tasks: Sequence[str]) -> str:
        """Return the command that trains the experts of some tasks."""
        command = self.train.format(data=data, out=experts, tasks=" ".join(tasks))
        return f"python -m benchmarks.experts.{command}"


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
    """Give the questions whole, and their answers to be given word for word."""
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


TEXT_FILE, IMAGE_FILE = "{}/test.tsv.gz", "{}.npz"
SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            name="text",
            # The first eight are the table's; with the last three, runs of 2, 4, 8 and 11 tasks.
            tasks=(
                *("sst2", "subj", "trec", "ag_news", "tweet_emotion", "banking77", "clinc150", "sms_spam"),
                *("cola", "mrpc", "rte"),
            ),
            shown=8,
            subject="text tasks, all-MiniLM-L6-v2, full fine-tuned experts",
            unit="sentences",
            base=lambda experts: packaged_base(),
            experts=CACHE / "experts/minilm-full",
            file=TEXT_FILE,
            results=Path(),
            runtimes={"packed": "PyTorch", "gguf": "llama.cpp", "onnx": "onnxruntime"},
            train="text --data {data} --out {out} {tasks}",
            entry=_text,
        ),
        Suite(
            name="classifiers",
            tasks=("trec", "subj", "sst2", "sms_spam", "tweet_emotion", "ag_news"),
            shown=6,
            subject=(
                "text tasks, all-MiniLM-L6-v2, full fine-tuned classifiers, each task read by its own "
                "expert's head"
            ),
            unit="sentences",
            base=lambda experts: packaged_base(),
            experts=CACHE / "experts/minilm-classifiers",
            file=TEXT_FILE,
            results=Path("classifiers"),
            runtimes={"packed": "PyTorch", "gguf": "llama.cpp", "onnx": "onnxruntime"},
            train="classifiers --data {data} --out {out} {tasks}",
            entry=_text,
        ),
        Suite(
            name="e5",
            tasks=("trec", "subj", "sst2", "sms_spam", "tweet_emotion", "ag_news"),
            shown=6,
            subject=(
                "text tasks, multilingual-e5-small (from a 4-bit file, dequantised), LoRA experts, each text "
                "behind `query: `"
            ),
            unit="sentences",
            base=lambda experts: experts / "base",
            experts=CACHE / "experts/e5",
            file=TEXT_FILE,
            results=Path("e5"),
            runtimes={"packed": "PyTorch", "gguf": "llama.cpp", "onnx": "onnxruntime"},
            train=(
                "text --base {out}/base --lora 8 --steps 60 --batch-size 16 --data {data} --out {out} {tasks}"
            ),
            entry=_text,
        ),
        Suite(
            name="image",
            tasks=tuple(image_tasks.TASKS),
            shown=6,
            subject=(
                "image tasks, a small CLIP (12 + 12 layers of width 192, 64 pixels), experts with fine-tuned "
                "image towers"
            ),
            unit="images",
            base=lambda experts: experts / "base",
            experts=CACHE / "experts/clip",
            file=IMAGE_FILE,
            results=Path("image"),
            runtimes={"packed": "PyTorch", "gguf": "clip.cpp", "onnx": "onnxruntime"},
            train="clip --data {data} --out {out} experts {tasks}",
            entry=_clip,
        ),
        Suite(
            name="vit",
            tasks=tuple(image_tasks.TASKS),
            shown=6,
            subject=(
                "image tasks, DINOv2-small at 84 pixels, full fine-tuned experts with frozen linear heads"
            ),
            unit="images",
            base=lambda experts: experts / "base",
            experts=CACHE / "experts/vit",
            file=IMAGE_FILE,
            results=Path("vit"),
            runtimes={"packed": "PyTorch", "onnx": "onnxruntime"},
            train="vit --data {data} --out {out} experts {tasks}",
            entry=_vit,
        ),
        Suite(
            name="language",
            tasks=tuple(language_tasks.TASKS),
            shown=6,
            subject=(
                "text tasks as multiple choice, SmolLM2-135M-Instruct (from a 4-bit file, dequantised), "
                "LoRA experts"
            ),
            unit="texts",
            base=lambda experts: experts.with_name("smollm2"),
            experts=CACHE / "lm/smollm2-experts",
            file=TEXT_FILE,
            results=Path("language"),
            runtimes={"packed": "PyTorch", "gguf": "llama.cpp"},
            train="language --base MODEL --data {data} --out {out} {tasks}",
            entry=_language,
        ),
        Suite(
            name="t5",
            tasks=tuple(language_tasks.T5_TASKS),
            shown=6,
            subject=(
                "text tasks answered word for word, FLAN-T5-small (from an int8 file of a fine-tune, "
                "dequantised), LoRA experts"
            ),
            unit="texts",
            base=lambda experts: experts.with_name("flan-t5-small"),
            experts=CACHE / "lm/flan-t5-small-experts",
            file=TEXT_FILE,
            results=Path("t5"),
            runtimes={"packed": "PyTorch", "gguf": "llama.cpp", "onnx": "onnxruntime"},
            train="language --base MODEL --data {data} --out {out} {tasks}",
            entry=_t5,
        ),
    )
}
TEXT, LANGUAGE = SUITES["text"], SUITES["language"]
