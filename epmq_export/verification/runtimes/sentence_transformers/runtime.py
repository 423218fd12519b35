"""The client sentence-transformers, in the environment where its user has it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epmq_export.models.samples import Sample
from epmq_export.verification.runtimes.client import folder_of, texts_of
from epmq_export.verification.runtimes.process import Program, read_array
from epmq_export.verification.runtimes.sentence_transformers.package import NAME, installed, python

_WORKER = Path(__file__).with_name("worker.py")
_TELLING = (r"error: (.*)",)
_SECONDS_A_TEXT = 5.0


@dataclass(frozen=True)
class SentenceTransformers:
    """sentence-transformers, which loads a folder as it stands: with its tokenizer, length, pooling and
    normalisation.
    """

    seconds: float = 300.0
    """The seconds that the process may take to start, besides 5 seconds a text."""

    memory: int = 8 << 30
    """The bytes that the process may take, besides three times the file, where the system can bound it."""

    name = NAME
    packages = ()  # They lie in another environment. The version has theirs.
    copies = 0.0
    dequantiser = None  # It decodes weights within its graphs only.

    def version(self) -> str:
        return installed()

    def outputs(self, path: Path, samples: Sequence[Sample], *, exact: bool = False) -> NDArray[np.float32]:
        """Return the embeddings, float32 [len(samples), width], as `Runtime.outputs` says.

        An .onnx file runs in its backend for ONNX, and any other in PyTorch. Raises InputError where it
        refuses the folder or loads another file of it, and for samples that are no texts.
        """
        self.version()
        request = {
            "folder": str(folder_of(path).absolute()),
            "file": str(path.absolute()),
            "texts": texts_of(path, samples),
            "exact": exact,
        }
        # -E keeps this process's settings for Python out of another one.
        program = Program(self.name, (python(), "-E", str(_WORKER)), _TELLING, foreign=True)
        memory, seconds = self.memory + 3 * path.stat().st_size, self.seconds + _SECONDS_A_TEXT * len(samples)
        (found,) = program.answers(path, [request], read_array, memory=memory, seconds=seconds)
        return found

    def reads(self, text: str) -> bool:
        return True

    def notes(self, files: Sequence[Path]) -> dict[str, Any]:
        """Return nothing: it does not tell how it runs them."""
        return {}
