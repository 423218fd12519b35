"""The outputs of a model on a task beside the reference's, line by line."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from epmq_export.verification.statistics.bootstrap import Numbers
from epmq_export.verification.statistics.lines import Graded, Lines, Right

NEIGHBOURS = 10
"""How many nearest neighbours are compared: as many as people look at who search."""


class Measure(StrEnum):
    """What a task is judged by."""

    ACCURACY = "accuracy"
    """How far the share of right answers is below the reference's."""

    RANKS = "rank correlation"
    """How far Spearman's correlation with the right numbers is below the reference's."""

    EXPERT = "agreement with the expert"
    """How far accuracy or rank correlation is below the reference's, of a task without labels whose right
    answers are its expert's: no accuracy that others could be compared with.
    """

    COSINE = "cosine distance"
    """1 - cosine of an output and the reference's, for a task without labels."""

    KL = "KL divergence"
    """KL(reference || model) in nats, for a task of a language model without labels."""


@dataclass(frozen=True)
class Distance:
    """How far the outputs of a model are from the reference's."""

    measure: Measure
    """The measure: a cosine distance, or a KL divergence."""

    lines: Graded
    """The distance of each output."""


@dataclass(frozen=True)
class Comparison:
    """The outputs of a model on a task, compared with the reference's. A part is None where the task has no
    such thing.
    """

    distance: Distance | None = None
    """How far each output is from the reference's."""

    same_first: Lines | None = None
    """Where the first choice is the reference's: the class, the token, the words of the answer or, of outputs
    without classes, the nearest neighbour among the task's lines.
    """

    neighbours: Graded | None = None
    """The share of each line's nearest neighbours among the task's lines that are those of the reference."""

    facts: Mapping[str, float] = field(default_factory=dict)
    """Other facts for the report, by their names."""


def nearest(unit: Numbers, count: int) -> NDArray[np.int64]:
    """Return the `count` nearest other rows of each of the rows, nearest first, int64 [rows, count]. Rows are
    of length 1, float64 [rows, width]. Of equally near ones the first counts.
    """
    near = unit @ unit.T
    np.fill_diagonal(near, -np.inf)
    return np.argsort(-near, axis=1, kind="stable")[:, :count]


def shared_neighbours(found: Numbers, expected: Numbers) -> tuple[Right | None, Graded | None]:
    """Return which rows have the same nearest neighbour in both, and the share of each row's ten nearest
    neighbours that it has in both; None where there are not enough others. Rows have length 1.
    """
    count = min(NEIGHBOURS, len(found) - 1)
    if count < 1:
        return None, None
    near, expect = nearest(found, count), nearest(expected, count)
    first = Right(near[:, 0] == expect[:, 0])
    if count < NEIGHBOURS:
        return first, None
    shared = [np.isin(ours, theirs).mean() for ours, theirs in zip(near, expect, strict=True)]
    return first, Graded.each(np.array(shared))
