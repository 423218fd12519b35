"""A language model in llama.cpp, in a process of its own, because llama.cpp aborts the process on some bad
files.

    python -m epmq_export.verification.runtimes.llama_cpp.language_worker REQUEST

REQUEST is a JSON file: `path` of the model, `samples`, `exact`, `memory` (bytes) and `result`, the file to
write as .npy. A sample is a text, the context and target of a passage, or a mapping with the text, the limit
and the ends of a question. The result is float32 [rows, vocabulary], with a row for a text and one for each
token of a target. For questions it is the tokens of their answers, float32 [questions, limit], with -1 behind
an end. Errors go to stderr.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from epmq_export.models.samples import Question
from epmq_export.verification.runtimes.llama_cpp.model import LlamaModel
from epmq_export.verification.runtimes.process import serve

Tokens = tuple[list[int], list[int], int]
"""The tokens that an encoder reads, where there is one; the tokens that the decoder reads; and the index of
the first of the latter whose successor is scored.
"""


def answer(request: Mapping[str, Any], result: Path) -> None:
    """Write the answer to a request."""
    samples: list[Any] = request["samples"]
    with LlamaModel(request["path"]) as model:
        asked = [Question(**sample) for sample in samples if isinstance(sample, dict)]
        given = [question.text for question in asked] or samples
        encoded = [
            _decoded(model, sample) if model.start is None else _in_halves(model, sample, model.start)
            for sample in given
        ]
        limit = max((question.limit for question in asked), default=0)
        model.begin(max(max(len(ids) + limit, len(context)) for context, ids, _ in encoded), request["exact"])
        shape = (
            (len(asked), limit)
            if asked
            else (sum(len(ids) - first for _, ids, first in encoded), model.width)
        )
        written = np.lib.format.open_memmap(result, "w+", np.float32, shape)
        start = 0
        for i, (context, ids, first) in enumerate(encoded):
            if context:
                model.encode(context)
            found = (
                asked[i].row(model.answer(ids, limit, asked[i].ends))[None]
                if asked
                else model.logits(ids, first)
            )
            written[start : (start := start + len(found))] = found
        written.flush()


def _decoded(model: LlamaModel, sample: str | list[str]) -> Tokens:
    """Return the tokens of a sample for a decoder alone."""
    context, target = (sample, "") if isinstance(sample, str) else sample
    ids = model.tokens(context + target)
    # The tokens of a target are those after as many as the context alone has.
    first = len(ids) - 1 if isinstance(sample, str) else max(len(model.tokens(context)), 1) - 1
    if not 0 <= first < len(ids):
        raise RuntimeError(f"{sample!r} has no tokens")
    return [], ids if isinstance(sample, str) else ids[:-1], first


def _in_halves(model: LlamaModel, sample: str | list[str], start: int) -> Tokens:
    """Return the tokens of a sample for an encoder and a decoder. The target's last token, which ends it, is
    predicted and not read.
    """
    context, target = (sample, []) if isinstance(sample, str) else (sample[0], model.tokens(sample[1]))
    ids = model.tokens(context)
    if not ids:
        raise RuntimeError(f"{sample!r} has no tokens")
    return ids, [start, *target[:-1]], 0


if __name__ == "__main__":
    serve(answer)
