"""A model of an encoder and a decoder in ONNX Runtime: contexts into the one, targets through the other, scores of what comes next out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from epmq_export.data.sample import Passage, Sample, text_of
from epmq_export.runtimes.onnx_language import ONE_BY_ONE, PAST, PRESENT

if TYPE_CHECKING:
    import onnxruntime

# How the files' names begin: what runs first, what begins an answer, and what goes on with it.
ENCODER, FIRST, NEXT = "encoder_model", "decoder_model", "decoder_with_past_model"
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Halves:
    encoder: "onnxruntime.InferenceSession"
    first: "onnxruntime.InferenceSession"
    next: "onnxruntime.InferenceSession | None"
    """For the last tokens, one by one; None where all are given at once."""

    start: int
    """The token that the decoder begins with."""


def scores(halves: Halves, samples: Sequence[Sample], tokens: Callable[[str], list[int]]) -> NDArray[np.float32]:
    """float32 [rows, vocabulary]: of a text what an answer to it begins with, of a passage a row for each token of its target. One at a time.

    `tokens` are those of a text, with the one that ends it.
    """
    rows = []
    for sample in samples:
        context, target = (sample.context, tokens(sample.target)) if isinstance(sample, Passage) else (text_of(sample), [0])
        rows.append(_run(halves, tokens(context), [halves.start, *target[:-1]]))
    return np.concatenate(rows)


def _run(halves: Halves, context: Sequence[int], ids: Sequence[int]) -> NDArray[np.float32]:
    """Scores [len(ids), vocabulary] of what follows each of `ids`."""
    read = np.ones((1, len(context)), np.int64)
    states = _outputs(halves.encoder, {"input_ids": np.array([context], np.int64), "attention_mask": read})["last_hidden_state"]
    end = len(ids) if halves.next is None else max(len(ids) - ONE_BY_ONE, 1)
    given: Arrays = {"encoder_attention_mask": read, "encoder_hidden_states": states}
    outputs = _outputs(halves.first, {**given, "input_ids": np.array([ids[:end]], np.int64)})
    found, cache = [outputs["logits"][0]], _cache(outputs)
    for token in ids[end:]:
        assert halves.next is not None
        outputs = _outputs(halves.next, {"encoder_attention_mask": read, **cache, "input_ids": np.array([[token]], np.int64)})
        found.append(outputs["logits"][0])
        cache |= _cache(outputs)
    return np.concatenate(found)


def _outputs(session: "onnxruntime.InferenceSession", feed: Arrays) -> Arrays:
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def _cache(outputs: Arrays) -> Arrays:
    """As the next tokens are given it; the keys and values of the encoder's states are given out once only."""
    return {name.replace(PRESENT, PAST, 1): value for name, value in outputs.items() if name.startswith(f"{PRESENT}.")}
