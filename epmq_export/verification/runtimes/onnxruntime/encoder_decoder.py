"""A model of an encoder and a decoder in ONNX Runtime: the encoder reads contexts, the decoder reads targets
and gives the scores of the next token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from epmq_export.models.samples import Passage, Question, Sample, text_of
from epmq_export.verification.runtimes.one_by_one import ONE_BY_ONE
from epmq_export.verification.runtimes.onnxruntime.decoder import PAST, PRESENT, greedy

if TYPE_CHECKING:
    import onnxruntime

# The beginnings of the files' names: the encoder, the decoder that begins an answer, the decoder that
# continues it with a cache, and the decoder that does both.
ENCODER, FIRST, NEXT, MERGED = (
    "encoder_model",
    "decoder_model",
    "decoder_with_past_model",
    "decoder_model_merged",
)
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Halves:
    """The sessions of a model's files."""

    encoder: "onnxruntime.InferenceSession"
    first: "onnxruntime.InferenceSession"
    next: "onnxruntime.InferenceSession | None"
    """The session for the last tokens, one by one, and for answers. None where all tokens are given at
    once.
    """

    start: int
    """The token that the decoder begins with."""


def scores(
    halves: Halves, samples: Sequence[Sample], tokens: Callable[[str], list[int]]
) -> NDArray[np.float32]:
    """Return the scores, float32 [rows, vocabulary]: a row for the first token of an answer to a text, and
    one for each token of a passage's target. The row of a question is its answer's tokens. Samples run one at
    a time.

    `tokens` gives the tokens of a text with the one that ends it.
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
    """A decoder that reads tokens behind the cache of those before, for one text in the encoder."""

    def __init__(self, halves: Halves, context: Sequence[int]) -> None:
        self._halves = halves
        self._read = np.ones((1, len(context)), np.int64)
        given = {"input_ids": np.array([context], np.int64), "attention_mask": self._read}
        self._states = _outputs(halves.encoder, given)["last_hidden_state"]
        self._cache: Arrays = {}

    def begin(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the scores of the token after each of the first tokens, float32 [len(ids), vocabulary]."""
        return self._scores(self._halves.first, ids)

    def read(self, token: int) -> NDArray[np.float32]:
        """Return the scores of the token after this one, float32 [vocabulary]."""
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
    """Run a session on those of the given arrays that are its inputs. A cache that it asks for and that is
    not there yet gets length 0.
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
    """Return the cache as it is given back with the next tokens. The keys and values of the encoder's states
    are only in the outputs of the first run.
    """
    return {
        name.replace(PRESENT, PAST, 1): value
        for name, value in outputs.items()
        if name.startswith(f"{PRESENT}.")
    }
