"""What a model is given: a text, a picture, a passage to be predicted, or a question to be answered."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from epmq_export.errors import InputError

Pixels = NDArray[np.uint8]
"""[height, width, 3], red first."""


@dataclass(frozen=True)
class Picture:
    """An image on disk or in memory, decoded anew each time that it is asked for."""

    place: str
    """Where it is, for messages: `data/train/cat/3.png`, `data.npz: x_train[17]`."""

    digest: str
    """Hex SHA-256 of its bytes as they are stored; of pixels in an array, with their shape."""

    pixels: Callable[[], Pixels]
    """InputError, with the place, where it cannot be decoded."""


@dataclass(frozen=True)
class Passage:
    """What a language model is scored on: how likely it finds the target's tokens, one after the other,
    behind the context.
    """

    context: str
    """What is read and not scored; may be empty. A model of two halves reads it in its encoder."""

    target: str


@dataclass(frozen=True)
class Question:
    """What a language model answers, the likeliest token each time: its output are the answer's tokens."""

    text: str
    limit: int
    """How many tokens an answer has at most, the one that ends it counted."""

    ends: tuple[int, ...]
    """The tokens that end one."""

    def row(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The output for an answer: [limit], -1 behind its end. Ids are far below what float32 has
        exactly.
        """
        return np.array([*ids, *[-1] * (self.limit - len(ids))], np.float32)


Sample = str | Picture | Passage | Question
AnySample = TypeVar("AnySample", str, Picture, Sample)


def text_of(sample: Sample) -> str:
    """InputError where a model of texts is given anything else."""
    if isinstance(sample, str):
        return sample
    raise InputError(f"found {shown(sample)}, expected a text")


def picture_of(sample: Sample) -> Picture:
    """InputError where a model of pictures is given a text."""
    if isinstance(sample, Picture):
        return sample
    raise InputError(f"found {shown(sample)}, expected a picture")


def shown(sample: Sample) -> str:
    """For messages."""
    match sample:
        case Picture():
            return f"the picture {sample.place}"
        case Passage():
            return f"the passage {sample.context[-30:]!r} + {sample.target[:30]!r}"
        case Question():
            return f"the question {sample.text[:60]!r}"
        case _:
            return f"the text {sample[:60]!r}"


def length(sample: Sample) -> int:
    """What samples are sorted by, so that those of a batch need little padding; all pictures are alike."""
    match sample:
        case Passage():
            return len(sample.context) + len(sample.target)
        case Question():
            return len(sample.text)
        case _:
            return len(sample) if isinstance(sample, str) else 0


def digest(sample: Sample) -> str:
    """Of its content: two samples with one digest are one."""
    if isinstance(sample, Picture):
        return sample.digest
    match sample:
        case Passage():
            text = f"{len(sample.context)}\0{sample.context}{sample.target}"
        case Question():
            text = f"{sample.limit} {sample.ends}\0{sample.text}"
        case _:
            text = sample
    return hashlib.sha256(text.encode()).hexdigest()


def choose(
    samples: Sequence[AnySample],
    count: int,
    seed: int,
    usable: Callable[[AnySample], bool] = lambda sample: True,
) -> list[AnySample]:
    """`count` distinct samples, in their order of appearance; all of them where there are no more. What is
    not usable counts as not there.

    Which ones depends on the seed and on each sample alone, by SHA-256: not on the order or the number of the
    others, nor on a random generator that a library may change; and a smaller choice is part of a larger one.
    """
    distinct: dict[str, AnySample] = {}
    for sample in samples:
        distinct.setdefault(sample if isinstance(sample, str) else digest(sample), sample)
    chosen: set[str] = set()
    for key in sorted(distinct, key=lambda key: hashlib.sha256(f"{seed}\0{key}".encode()).digest()):
        if len(chosen) == count:
            break
        if usable(distinct[key]):
            chosen.add(key)
    return [sample for key, sample in distinct.items() if key in chosen]
