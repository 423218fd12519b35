"""The command line as a user's script sees it: arguments in, exit code, stdout and stderr out."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests import ROOT
from tests.tiny.built_once import built_once

# Every command, and every Python that it starts, ends as soon as it asks a network.
CUT_OFF = Path(__file__).with_name("cut_off")
# Small models gain nothing from threads, and another number of them may add up in another order.
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
    "PYTHONPATH": os.pathsep.join(filter(None, (str(CUT_OFF), os.environ.get("PYTHONPATH")))),
}


@dataclass(frozen=True)
class Result:
    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """Return the one line that says what went wrong: what stderr holds beside warnings and the stages'
        own lines.
        """
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.stderr
        assert "Traceback" not in self.stderr, self.stderr
        return lines[0].removeprefix("error: ")

    @property
    def json(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.stdout)
        return content


def start(*arguments: str | Path, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `python cli.py`, perhaps with other variables of the environment."""
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        text=True,
        preexec_fn=_hear_interrupts,
    )


def _hear_interrupts() -> None:
    """Hear Ctrl-C: a shell starts its background jobs, CI's among them, deaf to it, and children inherit
    that.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def cold(*arguments: str | Path, folder: Path) -> Result:
    """Run `python cli.py` from nothing."""
    process = start(*arguments, folder=folder)
    stdout, stderr = process.communicate(timeout=300)
    return Result(process.returncode, stdout, stderr)


class Warm:
    """Run `python cli.py` by `warm_server`, without the seconds that the imports take."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.command_line.warm_server"]
        self._server = subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, *arguments: str | Path, folder: Path, file_limit: int | None = None) -> Result:
        assert self._server.stdin is not None and self._server.stdout is not None
        with tempfile.TemporaryDirectory() as scratch:
            out, err = Path(scratch, "out"), Path(scratch, "err")
            asked = {
                "arguments": [*map(str, arguments)],
                "folder": str(folder),
                "stdout": str(out),
                "stderr": str(err),
                "file_limit": file_limit,
            }
            self._server.stdin.write(json.dumps(asked) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            return Result(code, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))

    def close(self) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        assert self._server.wait(timeout=30) == 0


def tree(directory: Path) -> dict[str, bytes]:
    """Return the content of every file below a directory, by its path there."""
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def ran_once(
    name: str, command: Callable[..., Result], *recipe_and_options: str | Path
) -> tuple[Path, Result]:
    """Run a recipe once for all workers; return its output, which is read only, and what the command said."""

    def build(folder: Path) -> None:
        result = command("run", *recipe_and_options, "-o", "out", folder=folder)
        (folder / "result.json").write_text(json.dumps(asdict(result)), encoding="utf-8")

    folder = built_once(name, build)
    return folder / "out", Result(**json.loads((folder / "result.json").read_text(encoding="utf-8")))
