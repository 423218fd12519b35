"""llm-compressor's GPTQ, in an environment of its own: it pins other versions of transformers than this
project takes.
"""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks.peers.peer import Merge, Quantised, in_pytorch
from epmq_export.errors import InputError
from epmq_export.models.blocks import linears

WORKER = Path(__file__).with_name("llm_compressor_worker.py")
GROUP = 32


@dataclass(frozen=True)
class LlmCompressor:
    """`GPTQModifier` as it comes (symmetric, static activation order, dampening 0.01), layer by layer, in
    PyTorch on the CPU.
    """

    python: Path | None
    """The interpreter of an environment with llmcompressor; None where there is none."""

    name = "llm-compressor GPTQ"
    stages = ("packed",)

    @property
    def settings(self) -> dict[str, Any]:
        return {"bits": 4, "group": GROUP}

    def missing(self) -> str | None:
        if self.python is None:
            return (
                "give --peer-python, an interpreter of an environment with llmcompressor "
                "(llm_compressor_worker.py says how to make one)"
            )
        return (
            None if self.python.is_file() else f"{self.python}: found no such file, expected an interpreter"
        )

    def quantise(self, merge: Merge, folder: Path) -> Quantised:
        request, weights, answer = (
            folder / name for name in ("request.json", "weights.safetensors", "answer.json")
        )
        asked = {
            "model": str(merge.packed.directory),
            "texts": list(merge.texts),
            "linears": linears(merge.family),
            "group": GROUP,
            "weights": str(weights),
            "answer": str(answer),
        }
        request.write_text(json.dumps(asked), encoding="utf-8")
        assert self.python is not None  # else it is missing
        # Isolated: with a script's own folder on its path, it would take the files beside the worker for the
        # packages of their names.
        command = [str(self.python.absolute()), "-I", str(WORKER), str(request)]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=folder)
        if done.returncode or not answer.exists():
            last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
            raise InputError(f"{self.python}: llm-compressor fails ({last})")
        told = json.loads(answer.read_text(encoding="utf-8"))
        fallen = told["nearest"]
        note = f"llmcompressor {told['version']}" + (
            f"; rounded to the nearest by its own fallback: {', '.join(fallen)}" if fallen else ""
        )
        return Quantised(told["bits"], {"packed": in_pytorch(merge, load_file(weights))}, note)
