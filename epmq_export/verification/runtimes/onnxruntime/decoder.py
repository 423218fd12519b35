"""A decoder language model in ONNX Runtime: it reads texts through the cache of keys and values, and gives
the scores of the next token.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from epmq_export.errors import InputError
from epmq_export.models.samples import Passage, Question, Sample, text_of
from epmq_export.verification.runtimes.one_by_one import ONE_BY_ONE

if TYPE_CHECKING:
    import onnxruntime

PAST, PRESENT = "past_key_values", "present"


def is_language(inputs: Mapping[str, Sequence[Any]]) -> bool:
    """Return whether the inputs are those of a decoder with a cache."""
    return any(name.startswith(f"{PAST}.") for name in inputs)


def scores(
    session: "onnxruntime.InferenceSession",
    samples: Sequence[Sample],
    tokens: Callable[[str], list[int]],
    exact: bool,
) -> NDArray[np.float32]:
    """Return the scores, float32 [rows, vocabulary]: a row for the token after a text, and one for each token
    of a passage's target. The row of a question is its answer's tokens. Samples run one at a time.

    `tokens` gives the tokens of a text with the special ones. `exact` runs the last tokens one by one behind
    the cache. Raises InputError for a sample without tokens to read and to predict.
    """
    rows = []
    for sample in samples:
        if isinstance(sample, Question):
            rows.append(sample.row(_answer(session, tokens(sample.text), sample))[None])
            continue
        if isinstance(sample, Passage):
            whole, first = tokens(sample.context + sample.target), max(len(tokens(sample.context)), 1) - 1
            ids = whole[:-1]
        else:
            ids = tokens(text_of(sample))
            first = len(ids) - 1
        if not 0 <= first < len(ids):
            raise InputError(f"found {sample!r}, expected a text with tokens to read and to predict")
        ends = range(max(len(ids) - ONE_BY_ONE, 1), len(ids) + 1) if exact else (len(ids),)
        decoder = _Decoder(session)
        # Copies: a view of what is read would keep the scores of all tokens, with a vocabulary for each.
        found = [
            decoder.read(ids[start:end])[max(first - start, 0) :].copy()
            for start, end in pairwise((0, *ends))
        ]
        rows.append(np.concatenate(found))
    return np.concatenate(rows)


def _answer(session: "onnxruntime.InferenceSession", ids: Sequence[int], question: Question) -> list[int]:
    if not ids:
        raise InputError(f"found {question.text!r}, expected a text with tokens to read")
    decoder = _Decoder(session)
    return greedy(decoder.read(ids)[-1], lambda token: decoder.read([token])[-1], question)


def greedy(
    scores: NDArray[np.float32], read: Callable[[int], NDArray[np.float32]], question: Question
) -> list[int]:
    """Return the tokens of an answer, the likeliest each time. `scores` are those of the first token, and
    `read` gives the next scores once a token is read.
    """
    found = [int(scores.argmax())]
    while len(found) < question.limit and found[-1] not in question.ends:
        found.append(int(read(found[-1]).argmax()))
    return found


class _Decoder:
    """A decoder that reads the tokens of one text part by part, behind the cache of those before."""

    def __init__(self, session: "onnxruntime.InferenceSession") -> None:
        self._session = session
        self._shapes = {value.name: value.shape for value in session.get_inputs()}
        self._names = [value.name for value in session.get_outputs()]
        self._cache = {
            name: np.zeros([1, shape[1], 0, shape[3]], np.float32)
            for name, shape in self._shapes.items()
            if name.startswith(f"{PAST}.")
        }
        self._end = 0

    def read(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the scores of the token after each of these, float32 [len(ids), vocabulary]."""
        start, self._end = self._end, self._end + len(ids)
        feed: dict[str, NDArray[Any]] = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.ones((1, self._end), np.int64),
            "position_ids": np.arange(start, self._end, dtype=np.int64)[None],
        }
        found = self._session.run(
            self._names,
            {**{name: value for name, value in feed.items() if name in self._shapes}, **self._cache},
        )
        outputs = dict(zip(self._names, found, strict=True))
        self._cache = {name: outputs[name.replace(PAST, PRESENT, 1)] for name in self._cache}
        logits: NDArray[np.float32] = outputs["logits"][0]
        return logits
