"""WebGPU in the browser: the adapter that a page gets there, on a real GPU or computed by SwiftShader."""

import json
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from epmq_export.errors import MissingRuntime
from epmq_export.files.scratch import Scratch
from epmq_export.verification.runtimes.onnxruntime_web import package

NAME = "onnxruntime-webgpu"
INSTALL = f"use a browser that gives pages a WebGPU adapter; {package.INSTALL}"
SECONDS = 60.0

WORKER = Path(__file__).with_name("worker.py")
_PAGE = Path(__file__).with_name("adapter.html")
_GPU = ("--enable-unsafe-webgpu",)
_KINDS = (_GPU, (*_GPU, "--use-webgpu-adapter=swiftshader"))
"""The options of the browser for the adapter of a GPU, and for that which computes on the processor."""


@dataclass(frozen=True)
class Adapter:
    """An adapter that a browser gives to pages."""

    options: tuple[str, ...]
    """The browser's options for it."""

    told: str
    """What it says of itself."""


def installed() -> str:
    """Return the version that runs, with those of what is around it and the adapter. Raises MissingRuntime
    where one of them is absent.
    """
    told = package.installed().removesuffix(", wasm)")
    return f"{told}, {adapter(package.browser()).told})"


@cache
def adapter(program: str) -> Adapter:
    """Return the adapter of a browser, that of a GPU where there is one. Raises MissingRuntime where it has
    none.
    """
    found = "no adapter"
    for options in _KINDS:
        with Scratch("webgpu") as folder:
            request, result = folder / "request.json", folder / "result"
            asked: dict[str, Any] = {"browser": program, "options": options, "folders": {}}
            asked |= {"page": str(_PAGE), "result": str(result)}
            request.write_text(json.dumps(asked), encoding="utf-8")
            command = [sys.executable, str(WORKER), str(request)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
            except subprocess.TimeoutExpired:
                found = f"no answer in {SECONDS:.0f} s"
                continue
            if done.returncode == 0:
                return Adapter(options, result.read_text(encoding="utf-8"))
            # The browser says much of its own there.
            told = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
            found = told[-1].removeprefix("error: ") if told else found
    raise MissingRuntime(f"{NAME} has no WebGPU in the browser {program} ({found}): {INSTALL}")
