"""Commands that are killed on the way and started again: the result must have the bytes of one that was not.

    python -m benchmarks.robustness.kills
    python -m benchmarks.robustness.kills --commands calibrate --calls 20 --random 20

Each command works on a small project, in a process that is killed before one of the calls by which it writes
(opening a file to write, renaming, removing, making a directory: by default before each of them), and at
random points of its processor time. Then it is run again, with `--resume` where it has that. What comes out
is compared with the result of an undisturbed run, the report with its times excepted, and nothing may be left
beside it or among temporary files. The table goes into results/kills.json and .md and into docs/results.md;
the rows that a run does not measure stay as they were, and it may be stopped after any kill.
"""

import argparse
import os
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

import epmq_export as epmq
from benchmarks import RESULTS
from benchmarks.commands import as_asked, parser
from benchmarks.machine import machine, today
from benchmarks.robustness import project
from benchmarks.robustness.kept import Kept
from benchmarks.robustness.killing import calls, run
from benchmarks.tables import Markers
from epmq_export.files import sha256

# These are imported before the work, so that a killed process has only the work to do.
MODULES = (
    "gguf",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "matplotlib.figure",
    "formats.gguf.format",
    "formats.onnx.format",
    "converters.bert.family",
    "epmq_export.pipeline.calibrate",
    "epmq_export.pipeline.merge",
    "epmq_export.pipeline.run",
)
# Their bytes hold how long a run took.
TIMED = ("report.json", "report.html")


def _merge(recipe: Path, output: Path, again: bool) -> object:
    return epmq.merge(recipe, output, overwrite=again)


def _calibrate(recipe: Path, output: Path, again: bool) -> object:
    return epmq.calibrate(recipe, output, resume=again)


def _run(recipe: Path, output: Path, again: bool) -> object:
    return epmq.run(recipe, output, resume=again)


COMMANDS: dict[str, tuple[Callable[[Path, Path, bool], object], dict[str, object]]] = {
    "merge": (_merge, {}),
    "calibrate": (_calibrate, {}),
    "refine": (_calibrate, {"calibration": {"samples": 8, "refine": 10}}),
    "run": (_run, {}),
}
KINDS = ("calls", "random times")
PARTS = [f"{command}, {kind}" for command in COMMANDS for kind in KINDS]
HEAD = ("command", "killed", "kills", "identical results", "faults")
MARKERS = Markers.of("kills", "benchmarks.robustness.kills")


@dataclass
class Row:
    """What became of one command's kills of one kind."""

    command: str
    where: str
    killed: int = 0
    identical: int = 0
    faults: list[str] = field(default_factory=list)

    def cells(self) -> tuple[str, ...]:
        return self.command, self.where, str(self.killed), str(self.identical), str(len(self.faults))

    @property
    def told(self) -> list[str]:
        return [f"{self.command}, {fault}" for fault in self.faults]


def digests(output: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of an output, hidden ones too, by its path there."""
    return {
        str(path.relative_to(output)): sha256(path)
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name not in TIMED
    }


class Bench:
    """One command on the project, in a folder of its own."""

    def __init__(self, command: str, folder: Path, temporary: Path) -> None:
        self.command, self.folder, self.temporary = command, folder, temporary
        self._call, settings = COMMANDS[command]
        self._recipe = project.recipe(folder.parent / "project", command, **settings)
        self._said = folder.parent / f"{command}.log"
        self._output = folder / "out"
        self._empty()
        self.count = calls(self._first, self._said)
        self._wanted = digests(self._output)
        self._empty()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(self._first, self._said)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def killed(self, row: Row, name: str, before: int | None = None, seconds: float | None = None) -> None:
        """Kill the command once and run it again; note in the row what came of it."""
        self._empty()
        if run(self._first, self._said, before, seconds) != -9:
            return  # It was done before the time was over.
        row.killed += 1
        code = run(lambda: self._call(self._recipe, self._output, True), self._said)
        left = [entry.name for entry in self.folder.iterdir() if entry.name != "out"]
        left += [entry.name for entry in self.temporary.iterdir() if entry.name.startswith("epmq-")]
        if code != 0:
            row.faults.append(f"{name}: {self._said.read_text(encoding='utf-8').splitlines()[-1]}")
        elif left:
            row.faults.append(f"{name}: left {', '.join(left)}")
        elif others := {path for path, _ in digests(self._output).items() ^ self._wanted.items()}:
            row.faults.append(f"{name}: other bytes in {', '.join(sorted(others))}")
        else:
            row.identical += 1

    def _empty(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self._said.unlink(missing_ok=True)

    def _first(self) -> None:
        self._call(self._recipe, self._output, False)


def before_calls(bench: Bench, most: int | None) -> Iterator[Row]:
    """Kill the command before its calls, at most `most`; yield what became of it after each kill."""
    numbers = [*range(1, bench.count + 1)]
    if most is not None and most < len(numbers):
        numbers = sorted({numbers[round(i * (len(numbers) - 1) / max(most - 1, 1))] for i in range(most)})
    row = Row(bench.command, f"before writing calls, {len(numbers)} of {bench.count}")
    for number in numbers:
        bench.killed(row, f"call {number}", before=number)
        yield row


def at_random(bench: Bench, most: int) -> Iterator[Row]:
    """Kill the command so many times at random times; yield what became of it after each kill."""
    row, draw = Row(bench.command, f"at random times of {bench.seconds:.1f} s"), random.Random(0)
    for _ in range(2 * most):  # Some come after the end, and are none.
        if row.killed == most:
            break
        seconds = draw.uniform(0.001, bench.seconds)
        bench.killed(row, f"{seconds:.3f} s", seconds=seconds)
        yield row


def main(arguments: Sequence[str] | None = None) -> None:
    known = _parser()
    options = known.parse_args(arguments)
    about = f"{machine()}, {today()} (`{as_asked(known, options)}`)."
    torch.set_num_threads(1)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    os.environ["OMP_NUM_THREADS"] = "1"
    for name in MODULES:
        import_module(name)
    with tempfile.TemporaryDirectory() as place:
        work, temporary = Path(place), Path(place, "tmp")
        temporary.mkdir()
        os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
        project.make(work / "project")
        kept, faults = Kept(options.out, "kills", PARTS), False
        for command in options.commands:
            bench = Bench(command, work / command, temporary)
            found = before_calls(bench, options.calls), at_random(bench, options.random)
            for kind, each in zip(KINDS, found, strict=True):
                for row in each:
                    print(" | ".join(row.cells()), *row.faults, sep="\n  ", flush=True)
                    kept.keep(f"{command}, {kind}", about, [row.cells()], row.told)
                    kept.write("Kills", HEAD, MARKERS)
                    faults |= bool(row.faults)
    if faults:
        sys.exit(1)


def _parser() -> argparse.ArgumentParser:
    options = parser("robustness.kills", __doc__)
    options.add_argument("--commands", nargs="+", choices=COMMANDS, default=[*COMMANDS], metavar="COMMAND")
    options.add_argument("--calls", type=int, help="the most calls to kill before; 0 for none; default: all")
    options.add_argument("--random", type=int, default=100, help="kills at random times; default: 100")
    options.add_argument("--out", type=Path, default=RESULTS, help="where kills.json and .md go")
    return options


if __name__ == "__main__":
    main()
