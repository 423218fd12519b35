"""The client onnxruntime-genai, which runs decoder language models, in the environment where its user has
it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.models.samples import Sample
from epmq_export.verification.runtimes.client import folder_of, spoken_of
from epmq_export.verification.runtimes.one_by_one import ONE_BY_ONE
from epmq_export.verification.runtimes.onnxruntime_genai.package import NAME, installed, python
from epmq_export.verification.runtimes.process import Program, read_array

CONFIG = "genai_config.json"
"""The file that says what the library loads, and how."""

_WORKER = Path(__file__).with_name("worker.py")
_TELLING = (r"^error: (.*)",)
_SECONDS_A_TEXT = 5.0


@dataclass(frozen=True)
class OnnxRuntimeGenai:
    """onnxruntime-genai, which loads a folder as it stands, with a tokenizer of its own."""

    seconds: float = 120.0
    """The seconds that the process may take to start, besides 5 seconds a text."""

    memory: int = 8 << 30
    """The bytes that the process may take, besides three times the file, where the system can bound it."""

    name = NAME
    packages = ()  # They may lie in another environment. The version has theirs.
    copies = 0.0
    dequantiser = None  # It decodes weights within its graphs only.

    def version(self) -> str:
        return installed()

    def outputs(self, path: Path, samples: Sequence[Sample], *, exact: bool = False) -> NDArray[np.float32]:
        """Return the scores of tokens, or the answers to questions, as `Runtime.outputs` says.

        Raises InputError where the folder names another model, where the library refuses it, and for samples
        that are no texts.
        """
        self.version()
        asked = spoken_of(path, samples)
        _require_loaded(path)
        request = {
            "folder": str(folder_of(path).absolute()),
            "samples": asked,
            "exact": exact,
            "one_by_one": ONE_BY_ONE,
        }
        # -E keeps this process's settings for Python out of another one.
        program = Program(self.name, (python(), "-E", str(_WORKER)), _TELLING, foreign=True)
        memory, seconds = self.memory + 3 * path.stat().st_size, self.seconds + _SECONDS_A_TEXT * len(samples)
        (found,) = program.answers(path, [request], read_array, memory=memory, seconds=seconds)
        return found

    def reads(self, text: str) -> bool:
        return "\0" not in text  # Its tokenizer takes a text to end there (0.18.0).

    def notes(self, files: Sequence[Path]) -> dict[str, Any]:
        """Return nothing: it does not tell how it runs them."""
        return {}


def _require_loaded(path: Path) -> None:
    """Raise InputError where a model's folder tells the library to load another model, or nothing."""
    config = folder_of(path) / CONFIG
    if not config.is_file():
        raise InputError(f"{path}: no {CONFIG} in {config.parent}, which {NAME} loads a model by")
    named = read_json(config).get("model", {}).get("decoder", {}).get("filename")
    if config.parent / str(named) != path:
        raise InputError(f"{path}: {config} has {NAME} load {named!r}, expected this model")
