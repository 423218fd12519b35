"""The six image tasks: their classes as words, the prompts of their zero-shot heads, and how their images are
read.

Class names follow the order of `labels` in each npz file, whose own names serve where they are English words;
all other words and every prompt are written for this project.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# The last training images (of dtd10, 100), which no model learns from: settings are chosen on them, never on
# test images.
HELD_OUT = 500
SIGNS = (
    "speed limit 100",
    "speed limit 120",
    "speed limit 20",
    "speed limit 30",
    "speed limit 50",
    "speed limit 60",
    "speed limit 70",
    "end of speed limit 80",
    "speed limit 80",
    "ice and snow",
    "bicycles crossing",
    "children crossing",
    "wild animals crossing",
    "traffic lights",
    "road works",
    "no vehicles",
    "priority at the next crossing",
    "pedestrians",
    "general danger",
    "roundabout",
    "no overtaking by trucks",
    "end of no overtaking by trucks",
    "no trucks",
    "slippery road",
    "double curve to the left",
    "dangerous curve to the left",
    "dangerous curve to the right",
    "stop",
    "no overtaking",
    "end of no overtaking",
    "end of all limits",
    "bumpy road",
    "no entry",
    "road narrows",
    "keep left",
    "keep right",
    "priority road",
    "give way",
    "straight ahead only",
    "straight ahead or left",
    "straight ahead or right",
    "turn left ahead",
    "turn right ahead",
)
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class ImageTask:
    """`labels` are the words that stand for `{}` in each of `templates`; None: the file's own names."""

    templates: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    mirrored: bool = False
    """Whether an image's mirror image is of the same class."""


TASKS = {
    "cifar10": ImageTask(
        ("a photo of a {}.", "a small blurry photo of a {}.", "a picture of the {}."), mirrored=True
    ),
    "gtsrb": ImageTask(
        ("a traffic sign that means {}.", "a photo of the road sign: {}.", "the sign for {}."), SIGNS
    ),
    "mnist": ImageTask(
        ("a handwritten digit {}.", "the number {} written by hand.", "a photo of the digit {}."), DIGITS
    ),
    "notmnist": ImageTask(
        ("the letter {} in some font.", "a printed capital letter {}.", "the glyph of the letter {}.")
    ),
    "fer2013": ImageTask(
        ("a face that looks {}.", "a grey photo of a {} person.", "somebody with the expression {}."),
        mirrored=True,
    ),
    "dtd10": ImageTask(("a {} texture.", "a photo of a {} surface.", "the pattern is {}."), mirrored=True),
}


@dataclass(frozen=True)
class Images:
    """uint8 images [n, height, width] or [n, height, width, 3], and int64 labels [n]."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]


def names(data: Path, task: str) -> list[str]:
    """Return the words for each class, in the order of its index."""
    with np.load(data / f"{task}.npz") as file:
        return list(TASKS[task].labels or [str(name) for name in file["labels"]])


def read(data: Path, task: str, split: str) -> Images:
    """Return the images of a split: train (without what is held out), held_out or test."""
    with np.load(data / f"{task}.npz") as file:
        part = "test" if split == "test" else "train"
        pixels, labels = file[f"x_{part}"], file[f"y_{part}"].astype(np.int64)
    held = min(HELD_OUT, len(labels) // 9)
    if split == "train":
        pixels, labels = pixels[:-held], labels[:-held]
    elif split == "held_out":
        pixels, labels = pixels[-held:], labels[-held:]
    return Images(pixels, labels)
