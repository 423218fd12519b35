"""A decoder language model in ONNX Runtime: texts in, scores of what comes next out, through the cache of keys and values."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from epmq_export.data.sample import Passage, Sample, text_of
from epmq_export.errors import InputError

if TYPE_CHECKING:
    import onnxruntime

PAST, PRESENT = "past_key_values", "present"
# In exact runs the last tokens of a text are fed one by one, as a text is generated: what the cache gets wrong shows there.
ONE_BY_ONE = 3


def is_language(inputs: Mapping[str, Sequence[Any]]) -> bool:
    return any(name.startswith(f"{PAST}.") for name in inputs)


def scores(session: "onnxruntime.InferenceSession", samples: Sequence[Sample], tokens: Callable[[str], list[int]], exact: bool) -> NDArray[np.float32]:
    """float32 [rows, vocabulary]: of a text what follows it, of a passage a row for each token of its target. One text at a time.

    `tokens` are those of a text, with the special ones. `exact` runs the last tokens one by one behind the cache.
    """
    rows = []
    for sample in samples:
        if isinstance(sample, Passage):
            whole, first = tokens(sample.context + sample.target), max(len(tokens(sample.context)), 1) - 1
            ids = whole[:-1]
        else:
            ids = tokens(text_of(sample))
            first = len(ids) - 1
        if not 0 <= first < len(ids):
            raise InputError(f"found {sample!r}, expected a text with tokens to read and to predict")
        ends = range(max(len(ids) - ONE_BY_ONE, 1), len(ids) + 1) if exact else (len(ids),)
        rows.append(_run(session, ids, ends)[first:])
    return np.concatenate(rows)


def _run(session: "onnxruntime.InferenceSession", ids: Sequence[int], ends: Sequence[int]) -> NDArray[np.float32]:
    """Scores [len(ids), vocabulary], the tokens fed in parts that end there."""
    shapes = {value.name: value.shape for value in session.get_inputs()}
    cache = {name: np.zeros([1, shape[1], 0, shape[3]], np.float32) for name, shape in shapes.items() if name.startswith(f"{PAST}.")}
    names = [value.name for value in session.get_outputs()]
    found, start = [], 0
    for end in ends:
        feed: dict[str, NDArray[Any]] = {
            "input_ids": np.array([ids[start:end]], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
            "position_ids": np.arange(start, end, dtype=np.int64)[None],
        }
        outputs = dict(zip(names, session.run(names, {**{name: value for name, value in feed.items() if name in shapes}, **cache}), strict=True))
        found.append(outputs["logits"][0])
        cache = {name: outputs[name.replace(PAST, PRESENT, 1)] for name in cache}
        start = end
    return np.concatenate(found)
