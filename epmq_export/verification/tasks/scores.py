"""Scores from a model's outputs and the truth alone."""

import torch
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.models.heads import Head


def predict(outputs: Tensor, head: Head) -> Tensor:
    """Return the class of the largest logit, int64 [n], for outputs, float [n, d]. Of equal logits the first
    counts.

    Raises InputError where an output is not finite, or has no direction that a cosine needs.
    """
    head.require_width(outputs)  # This comes before anything looks at the values.
    outputs = finite(outputs, "an output") if head.bias is not None else unit(outputs, "an output")
    if head.bias is None:
        unit(head.weight, "a class of the head")
    result: Tensor = head.logits(outputs).argmax(1)
    return result


def right(outputs: Tensor, head: Head, truth: Tensor) -> Tensor:
    """Return which predictions are right, bool [n]. `truth` is int64 [n]."""
    found = predict(outputs, head)
    if found.shape != truth.shape:
        raise InputError(
            f"found {len(found)} outputs for {len(truth)} labelled samples, expected one for each"
        )
    return found == truth


def accuracy(outputs: Tensor, head: Head, truth: Tensor) -> float:
    """Return the share of right predictions, 0..1. `truth` is int64 [n]."""
    return float(right(outputs, head, truth).double().mean())


def cosines(outputs: Tensor, reference: Tensor) -> Tensor:
    """Return the cosine of each row of two float [n, d], float64 [n], -1..1."""
    if outputs.shape != reference.shape:
        raise InputError(
            f"found outputs {list(outputs.shape)} and a reference {list(reference.shape)}, expected one shape"
        )
    products = unit(outputs, "an output") * unit(reference, "a reference output")
    return products.sum(1).clamp(-1, 1)


def agreement(outputs: Tensor, reference: Tensor) -> float:
    """Return the mean cosine of the rows of two float [n, d], -1..1."""
    return float(cosines(outputs, reference).mean())


def finite(rows: Tensor, what: str) -> Tensor:
    """Return the rows in float64. Raises InputError where one is not finite, or where there is none."""
    if rows.ndim != 2 or not len(rows):
        raise InputError(f"{what} was expected in each row, found an array of shape {list(rows.shape)}")
    rows = rows.double()
    bad = ~torch.isfinite(rows).all(1)
    if bool(bad.any()):
        raise InputError(
            f"{what} is not finite: row {int(bad.nonzero()[0])}, the first of {int(bad.sum())} of {len(rows)}"
        )
    return rows


def unit(rows: Tensor, what: str) -> Tensor:
    """Return the rows with length 1, in float64. A row without a direction is an InputError, because its
    cosine would mean nothing.
    """
    rows = finite(rows, what)
    length = rows.norm(dim=1, keepdim=True)
    if bool((length == 0).any()):
        raise InputError(
            f"{what} is all zero: row {int((length[:, 0] == 0).nonzero()[0])}, so it has no cosine"
        )
    unit: Tensor = rows / length
    return unit
