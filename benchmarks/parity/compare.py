"""Tell rounding from a difference: our merge of a recipe beside mergekit's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from benchmarks.parity.cases import Case
from benchmarks.tables import table
from epmq_export.files import read_json
from epmq_export.tensors.checkpoint import Checkpoint, open_checkpoint

COMPARED = ("num_hidden_layers", "num_layers", "num_decoder_layers", "vocab_size", "dtype")
# The units in the last place that are no more than rounding.
UNITS = {torch.float32: 16, torch.float16: 2, torch.bfloat16: 2}


@dataclass(frozen=True, kw_only=True)
class Row:
    rule: str
    feature: str
    tensors: int
    absolute: float
    """Largest difference."""

    relative: float
    """The same as a share of the tensor's largest value."""

    verdict: str


def compare(case: Case, place: Path, failure: str | None) -> Row:
    """Judge `ours` against `theirs` in a folder; `failure` is what mergekit said where it did not merge."""
    if failure is not None:
        return _unmeasured(case, 0, f"mergekit fails: {failure}")
    ours, theirs = open_checkpoint(place / "ours"), open_checkpoint(place / "theirs")
    if set(ours.names()) != set(theirs.names()):
        only = sorted(set(ours.names()) ^ set(theirs.names()))
        verdict = f"differs: {only[0]} and {len(only) - 1} others are in one only"
        return _unmeasured(case, len(ours.names()), verdict)
    said = [
        {key: read_json(place / whose / "config.json").get(key) for key in COMPARED}
        for whose in ("ours", "theirs")
    ]
    if said[0] != said[1]:
        verdict = f"differs: config.json has {said[0]}, mergekit's {said[1]}"
        return _unmeasured(case, len(ours.names()), verdict)
    order = _token_order(place) if {"tokenizer", "tokenizer_source"} & set(case.recipe) else None
    return _judged(case, ours, theirs, order)


def _unmeasured(case: Case, tensors: int, verdict: str) -> Row:
    return Row(
        rule=case.rule,
        feature=case.feature,
        tensors=tensors,
        absolute=float("nan"),
        relative=float("nan"),
        verdict=verdict,
    )


def _judged(case: Case, ours: Checkpoint, theirs: Checkpoint, order: Tensor | None) -> Row:
    """Compare tensor by tensor, rows of the embeddings in mergekit's `order` of tokens."""
    absolute, relative, coarsest, verdict = 0.0, 0.0, 0.0, "equal"
    for name in ours.names():
        one, other = ours.load(name), theirs.load(name)
        if one.dtype != other.dtype or one.shape != other.shape:
            return _unmeasured(case, len(ours.names()), f"differs: {name} is {one.dtype} {list(one.shape)}")
        if order is not None and ("embed_tokens" in name or "lm_head" in name):
            one = torch.cat((one[order], one[len(order) :]))
        difference = float((one.double() - other.double()).abs().max())
        share = difference / max(float(other.double().abs().max()), 1e-30)
        absolute, relative = max(absolute, difference), max(relative, share)
        if one.is_floating_point() and difference > 0 and share / torch.finfo(one.dtype).eps > coarsest:
            coarsest = share / torch.finfo(one.dtype).eps
            rounding = f"{str(one.dtype).removeprefix('torch.')} rounding"
            verdict = rounding if coarsest <= UNITS[one.dtype] else f"differs: {name}"
    if case.known and verdict.startswith("differs"):
        verdict = f"known to differ: {case.known}"
    return Row(
        rule=case.rule,
        feature=case.feature,
        tensors=len(ours.names()),
        absolute=absolute,
        relative=relative,
        verdict=verdict,
    )


def _token_order(place: Path) -> Tensor:
    """Return, for each row of mergekit's embeddings, ours of the same token: a union's new tokens have no
    order of their own.
    """
    ours, theirs = (AutoTokenizer.from_pretrained(place / whose).get_vocab() for whose in ("ours", "theirs"))
    if set(ours) != set(theirs):
        raise SystemExit(f"{place}: the tokenizers have other tokens: {sorted(set(ours) ^ set(theirs))[:5]}")
    return torch.tensor([ours[token] for token in sorted(theirs, key=lambda token: int(theirs[token]))])


def text(about: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    said = (
        f"Written by `python -m benchmarks.parity` on {about['date']}: mergekit "
        f"{about['versions']['mergekit']}, torch {about['versions']['torch']}; {about['machine']}. Small "
        "random models, `merge_convention: mergekit`; the command's help explains the verdicts."
    )
    lines = [["rule", "recipe", "tensors", "largest difference", "relative", "verdict"]]
    lines += [
        [row.rule, row.feature, str(row.tensors), f"{row.absolute:.1e}", f"{row.relative:.1e}", row.verdict]
        for row in rows
    ]
    return f"# The same recipes through mergekit and epmq merge\n\n{said}\n\n{table(lines)}\n"
