"""The samples that a model is given: a text, a pair of texts, a picture, a passage to predict, or a question
to answer.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from epmq_export.errors import InputError

Pixels = NDArray[np.uint8]
"""The pixels of a picture, uint8 [height, width, 3], red first."""


@dataclass(frozen=True)
class Picture:
    """An image on disk or in memory, decoded anew each time that it is asked for."""

    place: str
    """The place that messages name: `data/train/cat/3.png`, `data.npz: x_train[17]`."""

    digest: str
    """The hex SHA-256 of its bytes as they are stored; for pixels in an array, with their shape."""

    pixels: Callable[[], Pixels]
    """A function that returns the pixels. It raises InputError, with the place, where the image cannot be
    decoded.
    """


@dataclass(frozen=True)
class Pair:
    """Two texts that a classifier reads as one input: is one the answer to the other, do they mean the same?
    A tokenizer is given them as `text` and `text_pair`.
    """

    first: str
    second: str


@dataclass(frozen=True)
class Passage:
    """A text that a language model is scored on: how likely it finds the tokens of the target, one after the
    other, behind the context.
    """

    context: str
    """The text that is read and not scored. It may be empty. A model of two halves reads it in its
    encoder.
    """

    target: str


@dataclass(frozen=True)
class Question:
    """A text that a language model answers with the likeliest token each time. Its output is the tokens of
    the answer.
    """

    text: str
    limit: int
    """The most tokens of an answer, with the one that ends it."""

    ends: tuple[int, ...]
    """The tokens that end an answer."""

    def row(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the output for an answer, float32 [limit], with -1 behind its end. float32 holds all ids
        exactly.
        """
        return np.array([*ids, *[-1] * (self.limit - len(ids))], np.float32)


Sample = str | Pair | Picture | Passage | Question
AnySample = TypeVar("AnySample", str, Picture, Sample)


def text_of(sample: Sample) -> str:
    """Return a sample that is a text. Raises InputError for any other sample."""
    if isinstance(sample, str):
        return sample
    raise InputError(f"found {shown(sample)}, expected a text")


def given_to_tokenizer(sample: Sample) -> str | tuple[str, str]:
    """Return a text or a pair as a tokenizer takes it in a batch. Raises InputError for any other sample."""
    return (sample.first, sample.second) if isinstance(sample, Pair) else text_of(sample)


def picture_of(sample: Sample) -> Picture:
    """Return a sample that is a picture. Raises InputError for any other sample."""
    if isinstance(sample, Picture):
        return sample
    raise InputError(f"found {shown(sample)}, expected a picture")


def as_json(sample: Sample) -> str | list[str] | dict[str, Any]:
    """Return what a program of another process is given: a text; [context, target] of a passage; {text,
    limit, ends} of a question. Raises InputError for a picture.
    """
    match sample:
        case Passage():
            return [sample.context, sample.target]
        case Question():
            return asdict(sample)
        case _:
            return text_of(sample)


def shown(sample: Sample) -> str:
    """Return a sample as messages show it."""
    match sample:
        case Picture():
            return f"the picture {sample.place}"
        case Pair():
            return f"the pair {sample.first[:30]!r} and {sample.second[:30]!r}"
        case Passage():
            return f"the passage {sample.context[-30:]!r} + {sample.target[:30]!r}"
        case Question():
            return f"the question {sample.text[:60]!r}"
        case _:
            return f"the text {sample[:60]!r}"


def length(sample: Sample) -> int:
    """Return the number that samples are sorted by, so that those of a batch need little padding. It is the
    same for all pictures.
    """
    match sample:
        case Pair():
            return len(sample.first) + len(sample.second)
        case Passage():
            return len(sample.context) + len(sample.target)
        case Question():
            return len(sample.text)
        case _:
            return len(sample) if isinstance(sample, str) else 0


def digest(sample: Sample) -> str:
    """Return the hex SHA-256 of a sample's content. Two samples with the same digest are the same."""
    if isinstance(sample, Picture):
        return sample.digest
    match sample:
        case Pair():
            text = f"pair {len(sample.first)}\0{sample.first}{sample.second}"
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
    """Return `count` distinct samples in their order of appearance, or all of them where there are no more.
    Samples that are not usable are left out.

    The choice depends on the seed and, by SHA-256, on each sample alone. It does not depend on the order or
    the number of the others, nor on a random generator that a library may change, and a smaller choice is
    part of a larger one.
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
