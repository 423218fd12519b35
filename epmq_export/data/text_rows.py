"""Texts with their labels, as the data have them; the prompts that they are put into; and the true answers
that a score needs.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from epmq_export.data.labels import UNLABELLED, indices_of
from epmq_export.errors import InputError
from epmq_export.files import encodable


@dataclass(frozen=True)
class Text:
    """A sample: one text, or several that a prompt brings together, or a conversation."""

    place: str
    """The place that messages name: `data/train.csv:3`, `dataset nyu-mll/glue mrpc train: row 2`."""

    values: Mapping[str, str]
    """Texts by column, in the order in which the columns are asked for. A conversation has none."""

    messages: tuple[Mapping[str, Any], ...] = ()
    """The messages of a conversation, in their order. Each has a `role` and a `content`."""

    @property
    def content(self) -> list[Any]:
        """Return all that it says, as JSON has it."""
        return [*self.values.values(), *self.messages]


@dataclass(frozen=True)
class Texts:
    """Texts with their labels."""

    samples: Sequence[Text]
    labels: Sequence[object] | None
    """The label of each sample, None where it has none. They are not checked, because calibration needs no
    labels.
    """

    names: Sequence[str] | None = None
    """The names of the classes, distinct, where the data number them and name them."""

    written: bool = False
    """Whether labels were written as text, so that a label that is no name may stand for a number."""

    data: Mapping[str, str] = field(default_factory=dict)
    """The SHA-256 of data that are no files of the user's, by name."""

    @property
    def places(self) -> list[str]:
        """Return where each text is."""
        return [sample.place for sample in self.samples]


def checked(value: object, place: str, column: str | None) -> str:
    """Return a text without the white space around it.

    Raises InputError for a value that is no text. The message names the column where one is given.
    """
    where = "" if column is None else f" in the column {column}"
    if not isinstance(value, str) or not value.strip():
        found = (
            "no text" if value is None or isinstance(value, str) else f"a text that is {type(value).__name__}"
        )
        raise InputError(f"{place}: found {found}{where}, expected a text")
    if not encodable(value):
        raise InputError(f"{place}: found half of a surrogate pair{where}, expected a text")
    return value.strip()


def prompted(prompt: str, text: Text) -> str:
    """Return the prompt with the text in place of `{}` or, where there are several texts, with each in place
    of its column's name in braces.
    """
    if len(text.values) == 1:
        (value,) = text.values.values()
        return prompt.replace("{}", value)
    # All are replaced at once, because a text may have braces of its own.
    return re.sub(
        "|".join(re.escape(f"{{{column}}}") for column in text.values),
        lambda found: text.values[found[0][1:-1]],
        prompt,
    )


def classes_of(texts: Texts, labels: Sequence[str]) -> list[int]:
    """Return each text's class as an index into the task's `labels`.

    Raises InputError where a text has none.
    """
    found: Sequence[object] = texts.labels or [None] * len(texts.samples)
    if texts.written:
        found = [
            int(label)
            if isinstance(label, str) and label not in labels and re.fullmatch(r"[0-9]{1,9}", label)
            else label
            for label in found
        ]
    return indices_of(texts.places, found, texts.names, labels)


def answers_of(texts: Texts) -> list[str]:
    """Return each text's label in words, which is the answer to it.

    Raises InputError where a text has none, or one that no answer can be.
    """
    return [
        _answer(label, texts.names, place)
        for label, place in zip(texts.labels or [None] * len(texts.samples), texts.places, strict=True)
    ]


def _answer(label: object, names: Sequence[str] | None, place: str) -> str:
    if names is not None and isinstance(label, int) and 0 <= label < len(names):
        label = names[label]
    if (
        label is None
        or (isinstance(label, str) and not label.strip())
        or (names is not None and label == UNLABELLED)
    ):
        raise InputError(f"{place}: found no label, expected the answer to the text")
    if (
        isinstance(label, bool)
        or not isinstance(label, str | int | float)
        or (isinstance(label, float) and not math.isfinite(label))
    ):
        raise InputError(f"{place}: found the label {repr(label)[:60]}, expected the answer to the text")
    answer = str(label)
    if "\n" in answer.strip() or not encodable(answer):
        raise InputError(
            f"{place}: found the label {answer[:60]!r}, expected the answer to the text in a line of text"
        )
    return answer


def numbers_of(texts: Texts) -> list[float]:
    """Return each text's label as a number.

    Raises InputError where a text has none, or where all are equal, so that there is nothing to rank: data
    sets of the hub have -1 for no label.
    """
    found = [
        _number(label, place, texts.written)
        for label, place in zip(texts.labels or [None] * len(texts.samples), texts.places, strict=True)
    ]
    if len({*found}) < 2:
        raise InputError(
            f"{texts.places[0]}: found the number {found[0]:g} as the label of all texts, expected "
            "numbers that differ"
        )
    return found


def _number(label: object, place: str, written: bool) -> float:
    if label is None:
        raise InputError(f"{place}: found no label, expected a number")
    try:
        number = (
            float(label)
            if isinstance(label, float | int) or (written and isinstance(label, str))
            else math.nan
        )
    except (ValueError, OverflowError):
        number = math.nan
    if isinstance(label, bool) or not math.isfinite(number):
        raise InputError(f"{place}: found the label {repr(label)[:60]}, expected a finite number")
    return number
