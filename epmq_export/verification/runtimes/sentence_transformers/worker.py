"""sentence-transformers in a process of its own, in whatever environment it is installed.

    PYTHON worker.py REQUEST

This program imports nothing of this project, because PYTHON may be another one's. REQUEST is a JSON file:
`folder` of the model, `file`, the one that is to be run, `texts`, `exact` (whether 4-bit layers multiply in
float32), and `result`, the file to write: float32 [texts, width] as .npy. Errors go to stderr.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

BATCH = 32


def main(request: dict[str, Any]) -> None:
    """Write the embeddings of the texts, as a user gets them."""
    import numpy as np
    from sentence_transformers import SentenceTransformer

    logging.disable(logging.WARNING)
    file = Path(request["file"])
    options: dict[str, Any] = {"device": "cpu"}
    if file.suffix == ".onnx":
        options |= {"backend": "onnx", "model_kwargs": _onnx(request["exact"])}
    model = SentenceTransformer(request["folder"], **options)
    if file.suffix == ".onnx":
        _require_file(model, file)
    # The texts have their prompts already.
    found = model.encode(
        request["texts"], prompt="", batch_size=BATCH, convert_to_numpy=True, show_progress_bar=False
    )
    with Path(request["result"]).open("wb") as result:
        np.save(result, np.asarray(found, np.float32))


def _onnx(exact: bool) -> dict[str, Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if exact:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    return {"provider": "CPUExecutionProvider", "session_options": options}


def _require_file(model: Any, expected: Path) -> None:  # noqa: ANN401 - a library of another environment
    """Raise ValueError where the library has loaded another file of the folder."""
    loaded = model[0].auto_model
    found = Path(getattr(loaded, "path", None) or loaded.model_path)
    if not found.samefile(expected):
        raise ValueError(f"it loads {found}, expected {expected}")


if __name__ == "__main__":
    try:
        main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    except Exception as error:  # Libraries raise whatever they like.
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
