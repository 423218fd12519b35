"""Scores of a model's outputs, from the outputs and the truth alone."""

import torch
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.models.heads import Head


def predict(outputs: Tensor, head: Head) -> Tensor:
    """The class of the largest logit, int64 [n]; outputs float [n, d]. The first of equals."""
    head.require_width(outputs)  # before their values are looked at
    outputs = _finite(outputs, "an output") if head.bias is not None else _unit(outputs, "an output")
    if head.bias is None:
        _unit(head.weight, "a class of the head")
    result: Tensor = head.logits(outputs).argmax(1)
    return result


def accuracy(outputs: Tensor, head: Head, truth: Tensor) -> float:
    """Share of right predictions, 0..1; truth int64 [n]."""
    found = predict(outputs, head)
    if found.shape != truth.shape:
        raise InputError(
            f"found {len(found)} outputs for {len(truth)} labelled samples, expected one for each"
        )
    return float((found == truth).double().mean())


def agreement(outputs: Tensor, reference: Tensor) -> float:
    """Mean cosine of the rows of two float [n, d], -1..1."""
    if outputs.shape != reference.shape:
        raise InputError(
            f"found outputs {list(outputs.shape)} and a reference {list(reference.shape)}, expected one shape"
        )
    return float((_unit(outputs, "an output") * _unit(reference, "a reference output")).sum(1).mean())


def _finite(rows: Tensor, what: str) -> Tensor:
    """Rows in float64; InputError where one is not finite, or where there is none."""
    if rows.ndim != 2 or not len(rows):
        raise InputError(f"{what} was expected in each row, found an array of shape {list(rows.shape)}")
    rows = rows.double()
    bad = ~torch.isfinite(rows).all(1)
    if bool(bad.any()):
        raise InputError(
            f"{what} is not finite: row {int(bad.nonzero()[0])}, the first of {int(bad.sum())} of {len(rows)}"
        )
    return rows


def _unit(rows: Tensor, what: str) -> Tensor:
    """Rows of length 1, in float64. A row that has no direction is an error: its cosine would be a number
    that says nothing.
    """
    rows = _finite(rows, what)
    length = rows.norm(dim=1, keepdim=True)
    if bool((length == 0).any()):
        raise InputError(
            f"{what} is all zero: row {int((length[:, 0] == 0).nonzero()[0])}, so it has no cosine"
        )
    unit: Tensor = rows / length
    return unit
