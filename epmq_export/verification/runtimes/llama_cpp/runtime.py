"""llama.cpp, through the package xllamacpp, in processes of its own."""

import json
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epmq_export.errors import InputError, MissingRuntime
from epmq_export.models.samples import Passage, Question, Sample, text_of
from epmq_export.tensors.gguf_splits import model_bytes
from epmq_export.verification.runtimes.llama_cpp import ggml as ggml_types
from epmq_export.verification.runtimes.process import Worker, cores

# What the C structures in ggml_types belong to; the same in pyproject.toml.
PACKAGE, VERSION = "xllamacpp", "2026.10.11549"
# Below this many texts a further process costs more than it saves.
_SHARE = 64
# Seconds that a text may take, besides what it takes to start.
_SECONDS_A_TEXT = 5.0
_WORKER, _LANGUAGE_WORKER = (
    "epmq_export.verification.runtimes.llama_cpp.embedding_worker",
    "epmq_export.verification.runtimes.llama_cpp.language_worker",
)
# Architectures whose outputs are embeddings; what cannot be told goes their way too.
_ENCODERS = ("bert", None)
_STRING = 8  # the number of the type in GGUF
# A failed assertion, else the first error of llama.cpp, else what the worker says.
_TELLING = (r"\S+\.\w+:\d+: (.*)", r"(?:[\d.]+) E \s*(.*)", r"error: (.*)")


@dataclass(frozen=True)
class LlamaCpp:
    """By llama.cpp's own tokenizer; embeddings pooled as the file says, not normalised."""

    seconds: float = 120.0
    """How long a process may take to start, beside 5 seconds a text."""

    memory: int = 8 << 30
    """Bytes of address space that a process may take, beside three times the file; where the system can bound
    it.
    """

    name = "llama.cpp"
    format = "gguf"
    approximate = True

    def version(self) -> str:
        how = f"pip install {PACKAGE}=={VERSION} (wheels: Linux x86-64 and ARM, macOS ARM, Windows x86-64)"
        try:
            found = version(PACKAGE)
        except PackageNotFoundError:
            raise MissingRuntime(f"llama.cpp is not installed: {how}") from None
        if found != VERSION:
            raise MissingRuntime(f"xllamacpp is {found}, expected {VERSION}: {how}")
        return found

    def outputs(self, path: Path, samples: Sequence[Sample], *, exact: bool = False) -> NDArray[np.float32]:
        """float32 [len(samples), width]: embeddings, or of a language model the scores of what comes next,
        with a row a scored token of passages, and of questions their answers' tokens.

        `exact` switches flash attention off, and holds a language model's keys and values in float32; give it
        a file of F32 tensors.
        """
        if language := architecture(path) not in _ENCODERS:
            asked: list[Any] = [_asked(sample) for sample in samples]
        else:
            asked = [text_of(sample) for sample in samples]
        worker, request = (
            (_LANGUAGE_WORKER, {"exact": exact})
            if language
            else (_WORKER, {"want": "outputs", "exact": exact})
        )
        rows: list[NDArray[np.float32]] = self._ask(
            path, worker, "samples" if language else "texts", asked, request, _array
        )
        return np.concatenate(rows)

    def tokens(self, path: Path, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, special tokens included, by llama.cpp's tokenizer and the file's
        vocabulary.
        """
        request = {"want": "tokens", "exact": False}
        shares: list[list[list[int]]] = self._ask(
            path,
            _WORKER,
            "texts",
            texts,
            request,
            lambda result: json.loads(result.read_text(encoding="utf-8")),
        )
        return [ids for share in shares for ids in share]

    def dequantise(self, grid: str, raw: NDArray[np.uint8], count: int) -> NDArray[np.float32] | None:
        """By ggml's `to_float`: F16 and every grid that GGUF holds."""
        self.version()
        return ggml_types.dequantise(grid, raw, count)

    def _ask(
        self,
        path: Path,
        module: str,
        key: str,
        samples: Sequence[Any],
        request: Mapping[str, Any],
        load: Callable[[Path], Any],
    ) -> list[Any]:
        """The answers to consecutive shares of the samples, one share a process."""
        self.version()
        if not samples:
            raise InputError(f"{path}: no texts to run it on")
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        count = min(cores(), -(-len(samples) // _SHARE))
        ends = [len(samples) * i // count for i in range(count + 1)]
        memory = self.memory + 3 * model_bytes(path)
        with tempfile.TemporaryDirectory(prefix="epmq-") as name, ExitStack() as stack:
            workers = []
            for index in range(count):
                share = samples[ends[index] : ends[index + 1]]
                seconds = self.seconds + _SECONDS_A_TEXT * len(share)
                asked = {**request, "path": str(path), key: list(share)}
                workers.append(
                    stack.enter_context(
                        Worker(
                            self.name, module, Path(name) / str(index), asked, memory=memory, seconds=seconds
                        )
                    )
                )
            return [load(worker.result(path, _TELLING)) for worker in workers]


def _asked(sample: Sample) -> str | list[str] | dict[str, Any]:
    match sample:
        case Passage():
            return [sample.context, sample.target]
        case Question():
            return asdict(sample)
        case _:
            return text_of(sample)


def _array(path: Path) -> NDArray[np.float32]:
    found: NDArray[np.float32] = np.load(path, allow_pickle=False)
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
