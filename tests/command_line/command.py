"""The command line as a user's script sees it: arguments in, exit code, stdout and stderr out."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests import ROOT
from tests.tiny.built_once import built_once, room

# Every command, and every Python that it starts, ends as soon as it asks a network.
CUT_OFF = Path(__file__).with_name("cut_off")
# Small models gain nothing from threads, and another number of them may add up in another order.
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "200",
    "PYTHONPATH": os.pathsep.join(filter(None, (str(CUT_OFF), os.environ.get("PYTHONPATH")))),
}
# With these no client is found that this machine may have in an environment of its own: `epmq doctor` would
# start a browser and a library, which takes seconds.
NO_CLIENTS = {"PATH": "/nowhere", "EPMQ_SENTENCE_TRANSFORMERS": "/nowhere", "EPMQ_BROWSER": "/nowhere"}
# A locale of few letters.
ASCII = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}


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


class Cold:
    """A command that `python cli.py` runs from nothing, perhaps with other variables of the environment."""

    def __init__(self, *arguments: str | Path, folder: Path, **environment: str) -> None:
        command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**ENVIRONMENT, **environment},
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            preexec_fn=_hear_interrupts,
        )
        self.send_signal, self.kill = self._process.send_signal, self._process.kill

    def running(self) -> bool:
        """Return whether it has not ended yet."""
        return self._process.poll() is None

    def result(self, timeout: float = 300) -> Result:
        """Return what it has said at its end."""
        stdout, stderr = self._process.communicate(timeout=timeout)
        return Result(self._process.returncode, stdout, stderr)


def _hear_interrupts() -> None:
    """Hear Ctrl-C: a shell starts its background jobs, CI's among them, deaf to it, and children inherit
    that.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def cold(*arguments: str | Path, folder: Path) -> Result:
    """Run `python cli.py` from nothing to its end."""
    return Cold(*arguments, folder=folder).result()


class Running:
    """A command that `warm_server` runs."""

    def __init__(self, ask: Callable[[Mapping[str, object]], None], request: Mapping[str, object]) -> None:
        self._scratch = tempfile.TemporaryDirectory()
        self._place = Path(self._scratch.name)
        os.mkfifo(self._place / "answer")
        places = {name: str(self._place / name) for name in ("stdout", "stderr", "answer")}
        ask({**places, **request})
        self._answer = (self._place / "answer").open("rb", buffering=0)
        self.pid = int(self._answer.readline())

    def running(self) -> bool:
        """Return whether it has not ended yet."""
        return not self._answer.closed and not select.select([self._answer], [], [], 0)[0]

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it has not ended."""
        if self.running():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        self.send_signal(signal.SIGKILL)

    def result(self, timeout: float = 1800) -> Result:
        """Return what it has said at its end. It is killed where that does not come in time."""
        if not select.select([self._answer], [], [], timeout)[0]:
            self.kill()
            raise TimeoutError(f"no end within {timeout} s: {self._said('stderr')}")
        with self._scratch, self._answer:
            return Result(int(self._answer.readline()), self._said("stdout"), self._said("stderr"))

    def _said(self, stream: str) -> str:
        """Return what it has written to a stream; nothing where that led elsewhere."""
        path = self._place / stream
        return path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""


class Warm:
    """Run `python cli.py` by `warm_server`, without the seconds that the imports take, nor those of a trace
    that another test has made.
    """

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.command_line.warm_server", str(room())]
        # With hashes of strings that the tests' own process has not: what hangs on their order differs.
        environment = {**ENVIRONMENT, "PYTHONHASHSEED": "7"}
        self._server = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )

    def __call__(
        self,
        *arguments: str | Path,
        folder: Path,
        file_limit: int | None = None,
        encoding: str | None = None,
        closed: Sequence[int] = (),
        stderr: Path | None = None,
        **environment: str | None,
    ) -> Result:
        """Run a command to its end, perhaps with other variables of the environment (None: without one), with
        streams in another encoding, with some of them closed, and with stderr led into another file.
        """
        request: dict[str, object] = {"file_limit": file_limit, "encoding": encoding, "closed": [*closed]}
        request |= {} if stderr is None else {"stderr": str(stderr)}
        return self._running(arguments, folder, environment=environment, **request).result()

    def start(
        self, *arguments: str | Path, folder: Path, ignored: Sequence[int] = (), **environment: str | None
    ) -> Running:
        """Start a command, perhaps with signals that are turned off."""
        return self._running(arguments, folder, ignored=[*ignored], environment=environment)

    def program(self, code: str, *arguments: str | Path, folder: Path = ROOT) -> Result:
        """Run a program in place of the command, as `python -c` does."""
        return self._running(arguments, folder, environment={}, program=code).result()

    def _running(self, arguments: Sequence[str | Path], folder: Path, **request: object) -> Running:
        usual = {"file_limit": None, "encoding": None, "closed": [], "ignored": [], "program": None}
        asked = {"arguments": [*map(str, arguments)], "folder": str(folder), **usual, **request}
        return Running(self._ask, asked)

    def _ask(self, request: Mapping[str, object]) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        assert self._server.wait(timeout=300) == 0


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
