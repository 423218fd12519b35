"""The client onnxruntime-web: transformers.js on a page in a headless browser, computing in WebAssembly."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epmq_export.models.samples import Sample
from epmq_export.verification.runtimes import transformers_js
from epmq_export.verification.runtimes.client import folder_of
from epmq_export.verification.runtimes.onnxruntime_web.package import NAME, browser, installed
from epmq_export.verification.runtimes.process import Program
from epmq_export.verification.runtimes.transformers_js.package import look
from epmq_export.verification.runtimes.transformers_js.runtime import (
    embedding_request,
    read_numbers,
    readable,
)

_HERE, _BESIDE = Path(__file__).parent, Path(transformers_js.__file__).parent
_TELLING = (r"^error: (.*)",)
_SECONDS_A_TEXT = 10.0


@dataclass(frozen=True)
class OnnxRuntimeWeb:
    """onnxruntime-web under transformers.js, which computes on the processor, in one thread."""

    seconds: float = 180.0
    """The seconds that the browser may take to start, besides 10 seconds a text."""

    memory: int = 8 << 30
    """The bytes that each process of the browser may take, besides three times the file, where the system can
    bound it.
    """

    name = NAME
    packages = ()  # npm installs them. The version has theirs.
    dequantiser = None  # It decodes weights within its graphs only.

    def version(self) -> str:
        return installed()

    def outputs(self, path: Path, samples: Sequence[Sample], *, exact: bool = False) -> NDArray[np.float32]:
        """Return the embeddings, float32 [len(samples), width], as `Runtime.outputs` says.

        Raises InputError where the folder names another model, where the library refuses the model, and for
        samples that are no texts.
        """
        found = look(Path.cwd())
        request = {
            "asked": embedding_request(path, samples, exact),
            "browser": browser(),
            "page": str(_HERE / "page.html"),
            "outputs": str(_BESIDE / "outputs.mjs"),
            "folders": {
                "model": str(folder_of(path).absolute()),
                "library": str(Path(found["file"]).parent),
                "wasm": found["wasm"],
            },
        }
        program = Program(self.name, (sys.executable, str(_HERE / "worker.py")), _TELLING, foreign=True)
        memory, seconds = self.memory + 3 * path.stat().st_size, self.seconds + _SECONDS_A_TEXT * len(samples)
        (numbers,) = program.answers(path, [request], read_numbers, memory=memory, seconds=seconds)
        return numbers.reshape(len(samples), -1)

    def reads(self, text: str) -> bool:
        return readable(text)

    def notes(self, files: Sequence[Path]) -> dict[str, Any]:
        """Return nothing: it does not tell how it runs them."""
        return {}
