"""The environment that has sentence-transformers, which need not be this one: its releases that do ONNX need
an older transformers than this project.
"""

import os
import subprocess
import sys
from functools import cache

from epmq_export.errors import MissingRuntime

NAME = "sentence-transformers"
PYTHON = "EPMQ_SENTENCE_TRANSFORMERS"
"""The environment variable with the Python to use. Without it, this one is used."""

INSTALL = (
    "pip install 'sentence-transformers[onnx]==5.7.*' in an environment of its own, and give its python in "
    f"the environment variable {PYTHON}"
)
SECONDS = 300.0
# This prints the version, and those of what computes. Only an import tells whether optimum knows the
# transformers beside it.
_VERSIONS = """
from importlib import metadata
import onnxruntime, sentence_transformers
from optimum.onnxruntime import ORTModelForFeatureExtraction
print(metadata.version("sentence-transformers"))
for name in ("transformers", "optimum", "onnxruntime"):
    print(name, metadata.version(name))
"""


def python() -> str:
    """Return the Python that is to run sentence-transformers."""
    return os.environ.get(PYTHON) or sys.executable


def installed() -> str:
    """Return the version that runs, with those of what it computes with. Raises MissingRuntime where there is
    none that runs ONNX.
    """
    return _installed(python())


@cache
def _installed(interpreter: str) -> str:
    command = [interpreter, "-E", "-c", _VERSIONS]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise MissingRuntime(
            f"{NAME} does not start in {interpreter} in {SECONDS:.0f} s: {INSTALL}"
        ) from None
    except OSError as error:
        raise MissingRuntime(f"{NAME} does not start in {interpreter} ({error}): {INSTALL}") from None
    if done.returncode != 0:
        told = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        raise MissingRuntime(f"{NAME} cannot run ONNX in {interpreter} ({told}): {INSTALL}")
    own, *others = done.stdout.strip().splitlines()
    return f"{own} ({', '.join(others)})"
