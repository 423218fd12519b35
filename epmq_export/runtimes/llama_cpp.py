"""llama.cpp, through the package xllamacpp, in processes of its own."""

import json
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from epmq_export.data.sample import Sample, text_of
from epmq_export.errors import InputError, MissingRuntime
from epmq_export.runtimes import ggml_types
from epmq_export.runtimes.worker import Worker, cores

# What the C structures in ggml_types belong to; the same in pyproject.toml.
PACKAGE, VERSION = "xllamacpp", "2026.10.11549"
# Below this many texts a further process costs more than it saves.
_SHARE = 64
# Seconds that a text may take, besides what it takes to start.
_SECONDS_A_TEXT = 5.0
_WORKER = "epmq_export.runtimes.llama_cpp_worker"
# A failed assertion, else the first error of llama.cpp, else what the worker says.
_TELLING = (r"\S+\.\w+:\d+: (.*)", r"(?:[\d.]+) E \s*(.*)", r"error: (.*)")


@dataclass(frozen=True)
class LlamaCpp:
    """By llama.cpp's own tokenizer, pooled as the file says, not normalised."""

    seconds: float = 120.0
    """How long a process may take to start, beside 5 seconds a text."""

    memory: int = 8 << 30
    """Bytes of address space that a process may take, beside three times the file; where the system can bound it."""

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
        """float32 [len(samples), width]. `exact` switches flash attention off; give it a file of F32 tensors."""
        rows: list[NDArray[np.float32]] = self._ask(
            path, [text_of(sample) for sample in samples], "outputs", exact, lambda result: np.load(result, allow_pickle=False)
        )
        return np.concatenate(rows)

    def tokens(self, path: Path, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, special tokens included, by llama.cpp's tokenizer and the file's vocabulary."""
        shares: list[list[list[int]]] = self._ask(path, texts, "tokens", False, lambda result: json.loads(result.read_text(encoding="utf-8")))
        return [ids for share in shares for ids in share]

    def dequantise(self, grid: str, raw: NDArray[np.uint8], count: int) -> NDArray[np.float32] | None:
        """By ggml's `to_float`: F16 and every grid that GGUF holds."""
        self.version()
        return ggml_types.dequantise(grid, raw, count)

    def _ask(self, path: Path, texts: Sequence[str], want: Literal["outputs", "tokens"], exact: bool, load: Callable[[Path], Any]) -> list[Any]:
        """The answers to consecutive shares of the texts, one share a process."""
        self.version()
        if not texts:
            raise InputError(f"{path}: no texts to run it on")
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        shares = np.array_split(np.array(texts, object), min(cores(), -(-len(texts) // _SHARE)))
        request = {"path": str(path), "want": want, "exact": exact}
        memory = self.memory + 3 * path.stat().st_size
        with tempfile.TemporaryDirectory(prefix="epmq-") as name, ExitStack() as stack:
            workers = []
            for index, share in enumerate(shares):
                seconds = self.seconds + _SECONDS_A_TEXT * len(share)
                asked = {**request, "texts": list(share)}
                workers.append(stack.enter_context(Worker(self.name, _WORKER, Path(name) / str(index), asked, memory=memory, seconds=seconds)))
            return [load(worker.result(path, _TELLING)) for worker in workers]
