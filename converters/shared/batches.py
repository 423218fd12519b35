"""Samples as batches, for families that do no more than to tokenise texts or to preprocess pictures."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from transformers import BatchEncoding, PreTrainedTokenizerFast

from epmq_export.models.family import Batch
from epmq_export.models.processor import preprocess
from epmq_export.models.samples import Pair, Sample, given_to_tokenizer, picture_of

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
    cut = text[: max(end for _, end in encoded["offset_mapping"])]
    # The last letter may be several tokens, of which not all fit: a runtime would be given one too many.
    while cut and _count(tokenizer, cut) > limit:
        cut = cut[:-1]
    return cut


def fitting_pair(tokenizer: PreTrainedTokenizerFast, pair: Pair, limit: int) -> Pair:
    """Return as much of both texts' beginnings as has up to `limit` tokens, special ones counted. The longer
    one is cut first, as tokenizers do.
    """
    # A batch of one: the tokenizer takes a pair alone whose second text is empty for one text.
    given = [given_to_tokenizer(pair)]
    encoded = tokenizer(given, truncation=True, max_length=limit, return_offsets_mapping=True)
    if len(encoded["input_ids"][0]) < limit:
        return pair
    ends = [0, 0]
    for (_, end), which in zip(encoded["offset_mapping"][0], encoded.sequence_ids(0), strict=True):
        if which is not None:
            ends[which] = max(ends[which], end)
    first, second = pair.first[: ends[0]], pair.second[: ends[1]]
    while (first or second) and _count(tokenizer, (first, second)) > limit:
        first, second = (first[:-1], second) if len(first) > len(second) else (first, second[:-1])
    return Pair(first, second)


def _count(tokenizer: PreTrainedTokenizerFast, given: str | tuple[str, str]) -> int:
    """Return how many tokens a text or a pair has, special ones counted."""
    # Not verbose: the library would warn of a text that is longer than the model's limit.
    return len(tokenizer([given], verbose=False)["input_ids"][0])


def between_texts(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the special tokens that a tokenizer puts between the two texts of a pair, as they are spelt."""
    encoded = tokenizer("a", "a")
    order = encoded.sequence_ids()
    start, end = len(order) - order[::-1].index(0), order.index(1)
    return "".join(tokenizer.convert_ids_to_tokens(encoded["input_ids"][start:end]))


def tokenised(
    tokenizer: PreTrainedTokenizerFast,
    samples: Sequence[Sample],
    size: int,
    limit: int,
    **settings: Any,  # noqa: ANN401 - the tokenizer's own
) -> Iterator[BatchEncoding]:
    """Give the tokens of texts and of pairs, int64 [batch, length], each batch padded to its longest sample,
    unless the settings say otherwise, and cut at `limit`. InputError for a sample that is neither.
    """
    for part in parts(samples, size):
        yield tokenizer(
            [given_to_tokenizer(sample) for sample in part],
            truncation=True,
            max_length=limit,
            return_tensors="pt",
            **{"padding": True, **settings},
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
