"""llama.cpp, through the package xllamacpp, in processes of its own."""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epmq_export.errors import InputError
from epmq_export.models.runtime import Dequantiser
from epmq_export.models.samples import Passage, Question, Sample, text_of
from epmq_export.tensors.gguf_splits import model_bytes
from epmq_export.verification.runtimes.llama_cpp import ggml, library
from epmq_export.verification.runtimes.process import Answer, Program, read_array, shares

# Below this many texts a further process costs more than it saves.
_SHARE = 64
# Seconds that a text may take, besides what it takes to start.
_SECONDS_A_TEXT = 5.0
# Architectures whose outputs are embeddings; what cannot be told goes their way too.
_ENCODERS = ("bert", None)
_STRING = 8  # the number of the type in GGUF
# A failed assertion, else the first error of llama.cpp, else what the worker says.
_TELLING = (r"\S+\.\w+:\d+: (.*)", r"(?:[\d.]+) E \s*(.*)", r"error: (.*)")
_NAME, _HERE = "llama.cpp", "epmq_export.verification.runtimes.llama_cpp"
_EMBEDDING = Program(_NAME, f"{_HERE}.embedding_worker", _TELLING)
_LANGUAGE = Program(_NAME, f"{_HERE}.language_worker", _TELLING)


@dataclass(frozen=True)
class LlamaCpp:
    """By llama.cpp's own tokenizer; embeddings pooled as the file says, not normalised."""

    seconds: float = 120.0
    """How long a process may take to start, beside 5 seconds a text."""

    memory: int = 8 << 30
    """Bytes of address space that a process may take, beside three times the file; where the system can bound
    it.
    """

    name = _NAME
    packages = (library.PACKAGE,)

    def version(self) -> str:
        return library.installed()

    def outputs(self, path: Path, samples: Sequence[Sample], *, exact: bool = False) -> NDArray[np.float32]:
        """Return float32 [len(samples), width]: embeddings, or of a language model the scores of what comes
        next, with a row a scored token of passages, and of questions their answers' tokens.

        `exact` switches flash attention off, and holds a language model's keys and values in float32; give it
        a file of F32 tensors.
        """
        asked: list[Any]
        if architecture(path) in _ENCODERS:
            asked = [text_of(sample) for sample in samples]
            wanted = {"want": "outputs", "exact": exact}
            found = self._ask(_EMBEDDING, path, "texts", asked, wanted, read_array)
        else:
            asked = [_asked(sample) for sample in samples]
            found = self._ask(_LANGUAGE, path, "samples", asked, {"exact": exact}, read_array)
        return np.concatenate(found)

    def tokens(self, path: Path, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, special tokens included, by llama.cpp's tokenizer and the file's
        vocabulary.
        """
        request = {"want": "tokens", "exact": False}
        return [ids for found in self._ask(_EMBEDDING, path, "texts", texts, request, _ids) for ids in found]

    @property
    def dequantiser(self) -> Dequantiser:
        """ggml's `to_float`: F16 and every grid that GGUF holds."""
        self.version()
        return ggml.dequantise

    def notes(self, files: Sequence[Path]) -> dict[str, Any]:
        return {}

    def _ask(
        self,
        program: Program,
        path: Path,
        key: str,
        samples: Sequence[Any],
        request: Mapping[str, Any],
        load: Callable[[Path], Answer],
    ) -> list[Answer]:
        """Return the answers to consecutive shares of the samples, which stand in a request under `key`."""
        self.version()
        if not samples:
            raise InputError(f"{path}: no texts to run it on")
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        parts = shares(samples, _SHARE)
        return program.answers(
            path,
            [{**request, "path": str(path), key: list(part)} for part in parts],
            load,
            memory=self.memory + 3 * model_bytes(path),
            seconds=self.seconds + _SECONDS_A_TEXT * max(map(len, parts)),
        )


def _asked(sample: Sample) -> str | list[str] | dict[str, Any]:
    match sample:
        case Passage():
            return [sample.context, sample.target]
        case Question():
            return asdict(sample)
        case _:
            return text_of(sample)


def _ids(path: Path) -> list[list[int]]:
    found: list[list[int]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def architecture(path: Path) -> str | None:
    """What a GGUF file says that it is, by its first key, where writers put it; None for a file that begins
    otherwise, as llama.cpp may explain.
    """
    try:
        with path.open("rb") as file:
            magic, _, _, _, length = struct.unpack("<4sIQQQ", file.read(32))
            if magic != b"GGUF" or length > 64 or file.read(length) != b"general.architecture":
                return None
            kind, length = struct.unpack("<IQ", file.read(12))
            return file.read(min(length, 64)).decode() if kind == _STRING else None
    except (OSError, struct.error, UnicodeDecodeError):
        return None
