"""Models in their runtimes, on one thread, as functions that run one text.

Each runtime's function opens a file for texts of up to a number of tokens. It gives a function that makes a
call ready: from a length, a function of no arguments that runs one text of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.speed.written import File
from epmq_export.verification.runtimes.llama_cpp import embedding_worker
from epmq_export.verification.runtimes.llama_cpp.model import LlamaModel

Call = Callable[[], object]
TOKENS = 100
"""The tokens of texts are those below it, which every model has."""


@dataclass(frozen=True)
class Length:
    """What one call is given: new tokens, and those of the cache."""

    new: int
    past: int = 0

    def __str__(self) -> str:
        return f"{self.new} behind {self.past}" if self.past else str(self.new)


Ready = Callable[[Length], Call]


@contextmanager
def in_onnxruntime(file: File, longest: int) -> Iterator[Ready]:
    """Open a file in ONNX Runtime. A decoder scores all new tokens."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    model = onnxruntime.InferenceSession(file.path, options, providers=["CPUExecutionProvider"])
    yield lambda length: partial(model.run, None, _given(model, length))


def _given(model: onnxruntime.InferenceSession, length: Length) -> dict[str, NDArray[Any]]:
    """Return the inputs of one text."""
    numbers = np.random.default_rng(0)
    ids = numbers.integers(0, TOKENS, (1, length.new))
    plain = {
        "input_ids": ids,
        "attention_mask": np.ones((1, length.new + length.past), np.int64),
        "position_ids": np.arange(length.past, length.past + length.new)[None],
        "token_type_ids": np.zeros_like(ids),
    }
    return {
        value.name: plain[value.name]
        if value.name in plain
        else numbers.standard_normal((1, value.shape[1], length.past, value.shape[3]), np.float32)
        for value in model.get_inputs()
    }


@contextmanager
def in_llama_cpp(file: File, longest: int) -> Iterator[Ready]:
    """Open a file in llama.cpp: an encoder in its server, which takes tokens; a decoder by its library, which
    scores the last token.
    """
    if file.family.language is None:
        server = embedding_worker.started(str(file.path), exact=False, cached=False)
        yield lambda length: partial(_embedded, server, [_ids(length.new)])
        return
    with LlamaModel(str(file.path)) as model:
        model.begin(longest, exact=False)

        def ready(length: Length) -> Call:
            if length.past:
                model.logits(_ids(length.past), length.past - 1)
            return partial(model.logits, _ids(length.new), length.new - 1, length.past)

        yield ready


def _ids(count: int) -> list[int]:
    ids: list[int] = np.random.default_rng(0).integers(0, TOKENS, count).tolist()
    return ids


def _embedded(server: Any, texts: list[list[int]]) -> None:  # noqa: ANN401 - it has no types
    answer = server.handle_embeddings({"input": texts, "embd_normalize": -1})
    if "error" in answer:
        raise RuntimeError(f"llama.cpp: {answer['error']}")
