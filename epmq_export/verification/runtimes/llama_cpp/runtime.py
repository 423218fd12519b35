"""The runtime llama.cpp, called through the package xllamacpp in processes of its own."""

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epmq_export.errors import InputError
from epmq_export.models.runtime import Dequantiser
from epmq_export.models.samples import Sample, as_json, text_of
from epmq_export.tensors.gguf_file import metadata_before
from epmq_export.tensors.gguf_splits import model_bytes
from epmq_export.verification.runtimes.llama_cpp import ggml, library
from epmq_export.verification.runtimes.process import Answer, Program, own_module, read_array, shares

# With fewer texts than this, another process costs more than it saves.
_SHARE = 64
# The seconds that a text may take, besides the start.
_SECONDS_A_TEXT = 5.0
# The architectures whose outputs are embeddings, whatever a file says. A file that does not tell its
# architecture is run in the same way. Files of others embed texts where they say how to pool.
_ENCODERS = ("bert", "modern-bert", "gemma-embedding", None)
_STRING = 8  # This is the number of the type in GGUF.
# These find, in this order: a failed assertion, the first error of llama.cpp, and the words of the worker.
_TELLING = (r"\S+\.\w+:\d+: (.*)", r"(?:[\d.]+) E \s*(.*)", r"error: (.*)")
_NAME, _HERE = "llama.cpp", "epmq_export.verification.runtimes.llama_cpp"
_EMBEDDING = Program(_NAME, own_module(f"{_HERE}.embedding_worker"), _TELLING)
_LANGUAGE = Program(_NAME, own_module(f"{_HERE}.language_worker"), _TELLING)


@dataclass(frozen=True)
class LlamaCpp:
    """llama.cpp with its own tokenizer. Embeddings are pooled as the file says, and not normalised."""

    seconds: float = 120.0
    """The seconds that a process may take to start, besides 5 seconds a text."""

    memory: int = 8 << 30
    """The bytes of address space that a process may take, besides three times the file, where the system can
    bound it.
    """

    name = _NAME
    packages = (library.PACKAGE,)
    copies = 0.0

    def version(self) -> str:
        return library.installed()

    def outputs(self, path: Path, samples: Sequence[Sample], *, exact: bool = False) -> NDArray[np.float32]:
        """Return the outputs, float32 [len(samples), width]: embeddings, or the scores of the next token from
        a language model, with a row for each scored token of a passage. The output of questions is the tokens
        of their answers.

        `exact` switches flash attention off and keeps the keys and values of a language model in float32;
        give it a file of F32 tensors. Raises InputError where llama.cpp refuses the file or passes a bound.
        """
        asked: list[Any]
        encoder = architecture(path) in _ENCODERS
        if encoder or embeds(path):
            asked = [text_of(sample) for sample in samples]
            wanted = {"want": "outputs", "exact": exact, "cached": not encoder}
            found = self._ask(_EMBEDDING, path, "texts", asked, wanted, read_array)
        else:
            asked = [as_json(sample) for sample in samples]
            found = self._ask(_LANGUAGE, path, "samples", asked, {"exact": exact}, read_array)
        return np.concatenate(found)

    def tokens(self, path: Path, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, special tokens included, by llama.cpp's tokenizer and the file's
        vocabulary.
        """
        request = {"want": "tokens", "exact": False, "cached": architecture(path) not in _ENCODERS}
        return [ids for found in self._ask(_EMBEDDING, path, "texts", texts, request, _ids) for ids in found]

    @property
    def dequantiser(self) -> Dequantiser:
        """Return ggml's `to_float`, which decodes F16 and every grid that GGUF holds."""
        self.version()
        return ggml.dequantise

    def reads(self, text: str) -> bool:
        return True

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
        """Return the answers to consecutive shares of the samples, which a request has under `key`."""
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


def _ids(path: Path) -> list[list[int]]:
    found: list[list[int]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def embeds(path: Path) -> bool:
    """Return whether a file is a GGUF file that embeds texts: by its architecture, or by the pooling that it
    names, of which 0 is none.
    """
    if (found := architecture(path)) is None or found in _ENCODERS:
        return found is not None
    try:
        pooling = metadata_before(path, "tokenizer.").get(f"{found}.pooling_type")
    except InputError:
        return False  # llama.cpp says what is wrong with it.
    return pooling is not None and pooling.value != 0


def architecture(path: Path) -> str | None:
    """Return the architecture that a GGUF file names in its first key, where writers put it, or None for a
    file that begins otherwise. llama.cpp may then say what is wrong with it.
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
