"""Clients in Python, in the environment where their users have them, which need not be this one."""

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache

from epmq_export.errors import MissingRuntime

SECONDS = 300.0


@dataclass(frozen=True)
class Environment:
    """Where a client is installed, and how that is found out."""

    client: str
    variable: str
    """The environment variable with the Python to use. Without it, this one is used."""

    versions: str
    """A program that imports what the client needs and prints its version, and then those of what it computes
    with, each in a line with its name.
    """

    fails: str
    """What is told of a Python in which that program ends with an error: `cannot run ONNX`."""

    install: str
    """What to install."""

    def python(self) -> str:
        """Return the Python that is to run the client."""
        return os.environ.get(self.variable) or sys.executable

    def installed(self) -> str:
        """Return the version that runs, with those of what it computes with. Raises MissingRuntime where
        there is none.
        """
        return _installed(self, self.python())


@cache
def _installed(environment: Environment, interpreter: str) -> str:
    name, install = environment.client, environment.install
    command = [interpreter, "-E", "-c", environment.versions]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise MissingRuntime(
            f"{name} does not start in {interpreter} in {SECONDS:.0f} s: {install}"
        ) from None
    except OSError as error:
        raise MissingRuntime(f"{name} does not start in {interpreter} ({error}): {install}") from None
    if done.returncode != 0:
        told = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        raise MissingRuntime(f"{name} {environment.fails} in {interpreter} ({told}): {install}")
    own, *others = done.stdout.strip().splitlines()
    return f"{own} ({', '.join(others)})" if others else own
