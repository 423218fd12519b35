"""Small data in the shape that the benchmarks read."""

import gzip
import json
from pathlib import Path

import numpy as np

from benchmarks.experts import image_tasks


def text_task(
    folder: Path, *, labels: tuple[str, ...] = ("bad", "good"), train: int = 540, pair: bool = False
) -> Path:
    """Write a text task: lines of all labels in turn, in words that the tests' small models know;
    two texts a line for a `pair`."""
    folder.mkdir(parents=True)
    second = "the rain [SEP] the rain is in " if pair else ""
    for split, count in (("train", train), ("test", 9)):
        lines = [
            f"{i % len(labels)}\tthe weather is {'good ' * (i % 3)}in {second}the park {i % 7}\n"
            for i in range(count)
        ]
        (folder / f"{split}.tsv.gz").write_bytes(gzip.compress("".join(lines).encode()))
    (folder / "labels.json").write_text(json.dumps(labels))
    return folder


def image_data(folder: Path, *, count: int = 60, side: int = 12) -> Path:
    """Write every image task: noise, of as many classes as the task has names, three where it has none."""
    folder.mkdir(parents=True)
    random = np.random.Generator(np.random.PCG64(0))
    for name, task in image_tasks.TASKS.items():
        labels = task.labels or ("one", "two", "three")
        arrays: dict[str, np.ndarray] = {"labels": np.array(labels)}
        for split, n in (("train", count), ("test", 8)):
            arrays[f"x_{split}"] = random.integers(0, 256, (n, side, side, 3), np.uint8)
            arrays[f"y_{split}"] = np.arange(n, dtype=np.int64) % len(labels)
        np.savez(folder / f"{name}.npz", **arrays)
    return folder
