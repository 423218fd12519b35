"""onnxruntime-genai in a process of its own, in whatever environment it is installed.

    PYTHON worker.py REQUEST

This program imports nothing of this project, because PYTHON may be another one's. REQUEST is a JSON file:
`folder` of the model; `samples`, each a text, the context and target of a passage, or a mapping with the
text, the limit and the ends of a question; `exact`, whether 4-bit layers multiply in float32 and the last
`one_by_one` tokens are read one by one, as in the generation of a text; and `result`, the file to write as
.npy: float32 [rows, vocabulary], with a row for a text and one for each token of a target, or of questions
the tokens of their answers, float32 [questions, limit], with -1 behind an end. Errors go to stderr.
"""

import json
import sys
from pathlib import Path
from typing import Any

EXACT = {"session.qdq_matmulnbits_accuracy_level": "0"}
"""What keeps ONNX Runtime from rounding the inputs of 4-bit layers to 8 bits."""


def main(request: dict[str, Any]) -> None:
    """Write the scores, or the answers."""
    import numpy as np
    import onnxruntime_genai as genai

    config = genai.Config(request["folder"])
    if request["exact"]:
        config.overlay(json.dumps({"model": {"decoder": {"session_options": EXACT}}}))
    model = Model(genai, config)
    late = request["one_by_one"] if request["exact"] else 0
    rows = [
        model.answer(sample) if isinstance(sample, dict) else model.scores(sample, late)
        for sample in request["samples"]
    ]
    with Path(request["result"]).open("wb") as result:
        np.save(result, np.concatenate(rows).astype(np.float32))


class Model:
    """A model with the library's own tokenizer."""

    def __init__(self, genai: Any, config: Any) -> None:  # noqa: ANN401 - a library of another environment
        self._genai, self._model = genai, genai.Model(config)
        self._tokenizer = genai.Tokenizer(self._model)

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        return [int(token) for token in self._tokenizer.encode(text)]

    def scores(self, sample: str | list[str], late: int) -> Any:  # noqa: ANN401 - an array of numpy
        """Return the scores of the token after a text, or of each token of a passage's target, float32
        [rows, vocabulary]. The last `late` tokens are read one by one.
        """
        import numpy as np

        if isinstance(sample, str):
            ids = self.tokens(sample)
            first = len(ids) - 1
        else:
            context, target = sample
            ids = self.tokens(context + target)[:-1]
            # The tokens of a target are those after as many as the context alone has.
            first = max(len(self.tokens(context)), 1) - 1
        if not 0 <= first < len(ids):
            raise ValueError(f"{sample!r} has no tokens to read and to predict")
        generator = self._generator(len(ids) + 1)
        start, found = 0, []
        for end in range(max(len(ids) - late, 1), len(ids) + 1) if late else (len(ids),):
            generator.append_tokens(np.array(ids[start:end], np.int32))
            found.append(np.array(generator.get_output("logits"))[0])
            start = end
        # A view would keep the scores of all tokens, with a vocabulary for each.
        return np.concatenate(found)[first:].copy()

    def answer(self, question: dict[str, Any]) -> Any:  # noqa: ANN401 - an array of numpy
        """Return the tokens of an answer, the likeliest each time, float32 [1, limit]."""
        import numpy as np

        ids, limit = self.tokens(question["text"]), question["limit"]
        generator = self._generator(len(ids) + limit)
        generator.append_tokens(np.array(ids, np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        found = [int(token) for token in generator.get_sequence(0)[len(ids) :]][:limit]
        # It leaves out the token that ends an answer.
        if len(found) < limit and (not found or found[-1] not in question["ends"]):
            found.append(question["ends"][0])
        return np.array([found + [-1] * (limit - len(found))], np.float32)

    def _generator(self, length: int) -> Any:  # noqa: ANN401 - a library of another environment
        parameters = self._genai.GeneratorParams(self._model)
        parameters.set_search_options(do_sample=False, max_length=length)
        return self._genai.Generator(self._model, parameters)


if __name__ == "__main__":
    try:
        main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except Exception as error:  # Libraries raise whatever they like.
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
