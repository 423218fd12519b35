"""The client onnxruntime-web: transformers.js on a page in a headless browser, computing in WebAssembly, or
as onnxruntime-webgpu in WebGPU.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from epmq_export.models.samples import Sample
from epmq_export.verification.runtimes import transformers_js
from epmq_export.verification.runtimes.client import folder_of
from epmq_export.verification.runtimes.onnxruntime_web import package, webgpu
from epmq_export.verification.runtimes.process import Program
from epmq_export.verification.runtimes.transformers_js.package import look
from epmq_export.verification.runtimes.transformers_js.runtime import (
    embedding_request,
    read_numbers,
    readable,
)

_HERE, _BESIDE = Path(__file__).parent, Path(transformers_js.__file__).parent
_NO_GPU = ("--disable-gpu",)
_TELLING = (r"^error: (.*)",)
_SECONDS_A_TEXT = {"wasm": 10.0, "webgpu": 60.0}


@dataclass(frozen=True)
class OnnxRuntimeWeb:
    """onnxruntime-web under transformers.js, which computes in WebAssembly, on the processor in one thread,
    or in WebGPU, on the adapter that the browser gives a page.
    """

    device: Literal["wasm", "webgpu"] = "wasm"
    """What computes, by the library's name."""

    seconds: float = 180.0
    """The seconds that the browser may take to start, besides 10 seconds a text, or 60 in WebGPU, which
    SwiftShader computes on the processor.
    """

    memory: int = 8 << 30
    """The bytes that each process of the browser may take, besides three times the file, where the system can
    bound it.
    """

    packages = ()  # npm installs them. The version has theirs.
    copies = 0.0
    dequantiser = None  # It decodes weights within its graphs only.

    @property
    def name(self) -> str:
        return package.NAME if self.device == "wasm" else webgpu.NAME

    def version(self) -> str:
        return package.installed() if self.device == "wasm" else webgpu.installed()

    def outputs(self, path: Path, samples: Sequence[Sample], *, exact: bool = False) -> NDArray[np.float32]:
        """Return the embeddings, float32 [len(samples), width], as `Runtime.outputs` says.

        Raises InputError where the folder names another model, where the library refuses the model, and for
        samples that are no texts.
        """
        found, program = look(Path.cwd()), package.browser()
        request = {
            "asked": {**embedding_request(path, samples, exact), "device": self.device},
            "browser": program,
            "options": _NO_GPU if self.device == "wasm" else webgpu.adapter(program).options,
            "page": str(_HERE / "page.html"),
            "outputs": str(_BESIDE / "outputs.mjs"),
            "folders": {
                "model": str(folder_of(path).absolute()),
                "library": str(Path(found["file"]).parent),
                "wasm": found["wasm"],
            },
        }
        worker = Program(self.name, (sys.executable, str(webgpu.WORKER)), _TELLING, foreign=True)
        memory = self.memory + 3 * path.stat().st_size
        seconds = self.seconds + _SECONDS_A_TEXT[self.device] * len(samples)
        (numbers,) = worker.answers(path, [request], read_numbers, memory=memory, seconds=seconds)
        return numbers.reshape(len(samples), -1)

    def reads(self, text: str) -> bool:
        return readable(text)

    def notes(self, files: Sequence[Path]) -> dict[str, Any]:
        """Return nothing: it does not tell how it runs them."""
        return {}
