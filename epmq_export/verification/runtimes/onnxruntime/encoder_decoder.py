"""A model of an encoder and a decoder in ONNX Runtime: contexts into the one, targets through the other,
scores of what comes next out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from epmq_export.models.samples import Passage, Question, Sample, text_of
from epmq_export.verification.runtimes.onnxruntime.decoder import ONE_BY_ONE, PAST, PRESENT, greedy

if TYPE_CHECKING:
    import onnxruntime

# How the files' names begin: what runs first, what begins an answer, what goes on with it, and what does
# either.
ENCODER, FIRST, NEXT, MERGED = (
    "encoder_model",
    "decoder_model",
    "decoder_with_past_model",
    "decoder_model_merged",
)
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Halves:
    encoder: "onnxruntime.InferenceSession"
    first: "onnxruntime.InferenceSession"
    next: "onnxruntime.InferenceSession | None"
    """For the last tokens, one by one, and for answers; None where all are given at once."""

    start: int
    """The token that the decoder begins with."""


def scores(
    halves: Halves, samples: Sequence[Sample], tokens: Callable[[str], list[int]]
) -> NDArray[np.float32]:
    """float32 [rows, vocabulary]: of a text what an answer to it begins with, of a passage a row for each
    token of its target, of a question its answer's tokens. One at a time.

    `tokens` are those of a text, with the one that ends it.
    """
    rows = []
    for sample in samples:
        if isinstance(sample, Question):
            decoder = _Decoder(halves, tokens(sample.text))
            rows.append(sample.row(greedy(decoder.begin([halves.start])[-1], decoder.read, sample))[None])
        else:
            context, target = (
                (sample.context, tokens(sample.target))
                if isinstance(sample, Passage)
                else (text_of(sample), [0])
            )
            ids = [halves.start, *target[:-1]]
            end = len(ids) if halves.next is None else max(len(ids) - ONE_BY_ONE, 1)
            decoder = _Decoder(halves, tokens(context))
            rows.append(
                np.concatenate(
                    [decoder.begin(ids[:end]), *(decoder.read(token)[None] for token in ids[end:])]
                )
            )
    return np.concatenate(rows)


class _Decoder:
    """What it reads, behind the cache of what it read before, of one text in the encoder."""

    def __init__(self, halves: Halves, context: Sequence[int]) -> None:
        self._halves = halves
        self._read = np.ones((1, len(context)), np.int64)
        given = {"input_ids": np.array([context], np.int64), "attention_mask": self._read}
        self._states = _outputs(halves.encoder, given)["last_hidden_state"]
        self._cache: Arrays = {}

    def begin(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Scores [len(ids), vocabulary] of what follows each of the first tokens."""
        return self._scores(self._halves.first, ids)

    def read(self, token: int) -> NDArray[np.float32]:
        """Scores [vocabulary] of what follows it."""
        assert self._halves.next is not None
        last: NDArray[np.float32] = self._scores(self._halves.next, [token])[-1]
        return last

    def _scores(self, session: "onnxruntime.InferenceSession", ids: Sequence[int]) -> NDArray[np.float32]:
        given = {
            "encoder_attention_mask": self._read,
            "encoder_hidden_states": self._states,
            "input_ids": np.array([ids], np.int64),
        }
        outputs = _outputs(session, {**given, **self._cache})
        self._cache |= _cache(outputs)
        logits: NDArray[np.float32] = outputs["logits"][0]
        return logits


def _outputs(session: "onnxruntime.InferenceSession", given: Arrays) -> Arrays:
    """Of what is given, the session gets its inputs; a cache that it asks for and is not there yet is one of
    length 0.
    """
    feed = {
        value.name: given[value.name] if value.name in given else _nothing(value.shape)
        for value in session.get_inputs()
    }
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def _nothing(shape: Sequence[Any]) -> NDArray[np.float32]:
    return np.zeros([1, shape[1], 0, shape[3]], np.float32)


def _cache(outputs: Arrays) -> Arrays:
    """As the next tokens are given it; the keys and values of the encoder's states are given out once
    only.
    """
    return {
        name.replace(PRESENT, PAST, 1): value
        for name, value in outputs.items()
        if name.startswith(f"{PRESENT}.")
    }
