"""Samples as batches, for families that do no more than to tokenise texts or to preprocess pictures."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from transformers import BatchEncoding, PreTrainedTokenizerFast

from epmq_export.models.family import Batch
from epmq_export.models.processor import preprocess
from epmq_export.models.samples import Sample, picture_of, text_of

Item = TypeVar("Item")


def parts(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Give the items `size` at a time, in their order."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def fitting(tokenizer: PreTrainedTokenizerFast, text: str, limit: int) -> str:
    """Return as much of a text's beginning as has up to `limit` tokens, special ones counted."""
    encoded = tokenizer(text, truncation=True, max_length=limit, return_offsets_mapping=True)
    if len(encoded["input_ids"]) < limit:
        return text
    return text[: max(end for _, end in encoded["offset_mapping"])]


def tokenised(
    tokenizer: PreTrainedTokenizerFast,
    samples: Sequence[Sample],
    size: int,
    limit: int,
    **settings: Any,  # noqa: ANN401 - the tokenizer's own
) -> Iterator[BatchEncoding]:
    """Give the texts' tokens, int64 [batch, length], each batch padded to its longest text and cut at
    `limit`. InputError for a sample that is no text.
    """
    for part in parts(samples, size):
        yield tokenizer(
            [text_of(sample) for sample in part],
            padding=True,
            truncation=True,
            max_length=limit,
            return_tensors="pt",
            **settings,
        )


def preprocessed(
    processor: Any,  # noqa: ANN401 - classes without a common type
    samples: Sequence[Sample],
    size: int,
) -> Iterator[Batch]:
    """Give the pictures as `pixel_values`, float32 [batch, 3, height, width]. InputError for a sample that is
    no picture.
    """
    for part in parts(samples, size):
        pixels = preprocess(processor, [picture_of(sample) for sample in part])
        yield {"pixel_values": torch.from_numpy(pixels)}
