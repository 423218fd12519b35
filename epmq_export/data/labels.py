"""The classes of samples: the labels that the data have, and the index of each among a task's labels."""

from collections.abc import Iterable, Sequence

from epmq_export.errors import InputError, did_you_mean

UNLABELLED = -1
"""The label of a sample without one in data where others have one. Data sets of the hub write it so."""


def worded(name: str) -> str:
    """Return the text that stands for a class that has only a name."""
    return name.replace("_", " ")


def distinct(names: Iterable[str], place: str) -> list[str]:
    """Return the names of classes. Raises InputError where two are the same."""
    found = list(names)
    if len(set(found)) < len(found):
        twice = next(name for index, name in enumerate(found) if name in found[:index])
        raise InputError(f"{place}: found the class {twice!r} twice, expected distinct names")
    return found


def by_name(texts: Sequence[str | None]) -> tuple[list[int], list[str]]:
    """Return labels that are names as indices into the sorted names, and these names. None becomes
    `UNLABELLED`.
    """
    names = sorted({text for text in texts if text is not None})
    order = {name: index for index, name in enumerate(names)}
    return [UNLABELLED if text is None else order[text] for text in texts], names


class Order:
    """The places of classes by their names. Capitals count only where two names differ in nothing else."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._exact = {name: index for index, name in enumerate(classes)}
        folded = [name.casefold() for name in classes]
        self._folded = {name: index for index, name in enumerate(folded) if folded.count(name) == 1}

    def place(self, name: str) -> int | None:
        """Return the index of the class of a name; None where there is none."""
        return self._exact.get(name, self._folded.get(name.casefold()))


def indices_of(
    places: Sequence[str], labels: Sequence[object], names: Sequence[str] | None, classes: Sequence[str]
) -> list[int]:
    """Return each label as an index into a task's `classes`.

    A label that is text is the name of a class, in capitals or not. A label that is a number is an index into
    `names`, or into `classes` where there are no names. Where the data count and name their classes, the task
    may call some by other names if they are as many and in the same order. Raises InputError, with the
    sample's place, for a label that is missing, out of range, of no class of the task, or no label at all.
    """
    order = Order(classes)
    count = len(classes) if names is None else len(names)
    in_order = count == len(classes) and all(
        order.place(each) in (None, index) for index, each in enumerate(names or ())
    )
    few = f" ({', '.join(classes)})" if len(classes) <= 8 else ""
    expected = f"expected one of the task's {len(classes)} labels"
    indices = []
    for place, label in zip(places, labels, strict=True):
        if label is None or label == UNLABELLED:
            raise InputError(f"{place}: found no label, {expected}")
        if isinstance(label, bool) or not isinstance(label, int | str):
            raise InputError(
                f"{place}: found the label {repr(label)[:60]}, expected a class: a name or a whole number"
            )
        if isinstance(label, int) and not 0 <= label < count:
            raise InputError(
                f"{place}: found the label {label}, expected one of the {count} classes, counted from 0"
            )
        name = label if isinstance(label, str) else classes[label] if in_order else (names or classes)[label]
        index = order.place(name)
        if index is None:
            raise InputError(
                f"{place}: found the label {name[:60]!r}, {expected}{few}{did_you_mean(name, classes)}"
            )
        indices.append(index)
    return indices
