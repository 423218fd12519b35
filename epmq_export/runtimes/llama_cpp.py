"""llama.cpp, through the package xllamacpp, in processes of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
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

# What the C structures in ggml_types belong to; the same in pyproject.toml.
PACKAGE, VERSION = "xllamacpp", "2026.10.11549"
# Below this many texts a further process costs more than it saves.
_SHARE = 64
# Seconds that a text may take, besides what it takes to start.
_SECONDS_A_TEXT = 5.0
_ROOT = Path(__file__).parents[2]


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
        shares = np.array_split(np.array(texts, object), min(_cores(), -(-len(texts) // _SHARE)))
        request = {"path": str(path), "want": want, "exact": exact, "memory": self.memory + 3 * path.stat().st_size}
        with tempfile.TemporaryDirectory(prefix="epmq-") as name, ExitStack() as stack:
            workers = [
                stack.enter_context(_Worker(Path(name) / str(index), {**request, "texts": list(share)}, self.seconds + _SECONDS_A_TEXT * len(share)))
                for index, share in enumerate(shares)
            ]
            return [load(worker.result(path)) for worker in workers]


class _Worker:
    """One process of `llama_cpp_worker`; killed where its block ends first."""

    def __init__(self, folder: Path, request: dict[str, Any], seconds: float) -> None:
        folder.mkdir()
        self.seconds, self.memory = seconds, request["memory"]
        self.deadline = time.monotonic() + seconds
        self.answer, self.log = folder / "result", folder / "log"
        asked = folder / "request.json"
        asked.write_text(json.dumps({**request, "result": str(self.answer)}), encoding="utf-8")
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "epmq_export.runtimes.llama_cpp_worker", str(asked)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path, "GGML_NO_BACKTRACE": "1"},  # it would start a debugger, for seconds
            )

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def result(self, model: Path) -> Path:
        """The file with the answer; InputError, with llama.cpp's own words, where it gives none."""
        try:
            code = self.process.wait(max(0.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise InputError(f"{model}: llama.cpp gave no answer within {self.seconds:.0f} s and was stopped") from None
        if code != 0:
            how = "fails" if code > 0 else f"died ({_signal(-code)}; it may take {self.memory / 2**30:.1f} GiB)"
            raise InputError(f"{model}: llama.cpp {how}: {_telling(self.log.read_text(encoding='utf-8', errors='replace'))}")
        return self.answer


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _telling(log: str) -> str:
    """The line of a log that says what went wrong: a failed assertion, else the first error of llama.cpp, else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for pattern in (r"\S+\.\w+:\d+: (.*)", r"(?:[\d.]+) E \s*(.*)", r"error: (.*)"):
        if found := next((match[1] for match in (re.search(pattern, line) for line in lines) if match), None):
            return found
    return lines[-1] if lines else "it said nothing"
