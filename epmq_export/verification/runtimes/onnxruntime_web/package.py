"""The browser, and the packages of transformers.js with onnxruntime-web where their user has them."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path

from epmq_export.errors import MissingRuntime
from epmq_export.verification.runtimes.transformers_js import package as transformers_js

NAME = "onnxruntime-web"
BROWSER = "EPMQ_BROWSER"
"""The environment variable with the program of a browser of the Chromium family."""

INSTALL = (
    f"install Chromium or Chrome, or name its program in the environment variable {BROWSER}, and "
    f"{transformers_js.INSTALL}"
)
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60.0


def browser() -> str:
    """Return the program of the browser. Raises MissingRuntime where there is none."""
    named = os.environ.get(BROWSER)
    found = named or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        raise MissingRuntime(f"{NAME} has no browser on the PATH: {INSTALL}")
    return found


def installed() -> str:
    """Return the version that runs, with those of the library around it and of the browser. Raises
    MissingRuntime where one of them is absent.
    """
    program = browser()
    found = transformers_js.look(Path.cwd())
    own, around = found["onnxruntime-web"], f"transformers.js {found['version']}"
    return f"{own} ({around}, {_version(program)}, wasm)"


@cache
def _version(program: str) -> str:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        told = str(error) if isinstance(error, OSError) else type(error).__name__
        raise MissingRuntime(f"{NAME} has no browser that starts as {program} ({told}): {INSTALL}") from None
    return " ".join(done.stdout.split()[:2])
