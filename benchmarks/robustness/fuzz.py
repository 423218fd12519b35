"""The readers of files that come from strangers, given files that a coverage-guided fuzzer makes.

    pip install --no-deps --target ~/.cache/epmq/atheris atheris==3.0.0
    python -m benchmarks.robustness.fuzz
    python -m benchmarks.robustness.fuzz --targets recipe GGUF --seconds 1800

Each target (fuzz_targets.py) runs in a process of its own under libFuzzer, which keeps the files that reach
new lines and changes them further; what it has kept in --work is where the next run begins. A crash is
whatever a reader raises that is no refusal, each place in the code once, and a process that dies; a hang is a
file that takes more than 20 seconds of the processor; a file that lets the process hold more than 4 GiB is
counted under `out of memory`. --work keeps each of them with what was said. The table goes into
results/fuzz.json and .md and into docs/results.md after each target; the rows of the other targets stay as
they were measured. The exit code is 1 where anything was found.
"""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import RESULTS, ROOT
from benchmarks.commands import parser
from benchmarks.machine import machine, today
from benchmarks.robustness.fuzz_targets import TARGETS
from benchmarks.robustness.fuzz_worker import Hang, reports
from benchmarks.robustness.kept import Kept
from benchmarks.tables import Markers

CACHE = Path.home() / ".cache" / "epmq"
# What libFuzzer itself ends: seconds of the clock, which a busy machine may take for any file, and MB.
DEAF, MEMORY = 600, 4096
# A target that ends the fuzzer is started again, but not for ever.
STARTS = 5
HEAD = ("target", "executions", "seconds", "places in the code", "crashes", "hangs", "out of memory", "peak")
MARKERS = Markers.of("fuzzing", "benchmarks.robustness.fuzz")


@dataclass
class Row:
    """What became of one target."""

    target: str
    seconds: int = 0
    executions: int = 0
    covered: int = 0
    peak: int = 0
    """The most memory of the process, Python and its libraries included, in MB."""

    crashes: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    full: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return [*self.crashes, *self.hangs, *self.full]

    def cells(self) -> tuple[str, ...]:
        counts = (str(len(found)) for found in (self.crashes, self.hangs, self.full))
        return (
            self.target,
            f"{self.executions:,}",
            str(self.seconds),
            f"{self.covered:,}",
            *counts,
            f"{self.peak:,} MB",
        )


def note(row: Row, log: str) -> int:
    """Add to a row what libFuzzer says at the end of a process. Return the seconds that it ran."""
    last = {name: int(number) for name, number in re.findall(r"stat::(\w+):\s+(\d+)", log)}
    pulses = re.findall(r"#(\d+)\t.* cov: (\d+)", log)
    row.executions += last.get("number_of_executed_units", int(pulses[-1][0]) if pulses else 0)
    row.covered = max([row.covered, *(int(covered) for _, covered in pulses)])
    row.peak = max([row.peak, last.get("peak_rss_mb", 0), *map(int, re.findall(r" rss: (\d+)Mb", log))])
    ran = re.search(r"Done \d+ runs in (\d+) second", log)
    return int(ran[1]) if ran else 0


def fuzz(target: str, work: Path, atheris: Path, seconds: int) -> Row:
    """Run a target for so many seconds of the clock. Raises SystemExit, with what was said, where the fuzzer
    does not start.
    """
    folder, row = work / re.sub(r"\W+", "-", target), Row(target)
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("fault-*"), *artifacts(folder)):
        old.unlink()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(atheris)]),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    for _ in range(STARTS):
        options = [f"-max_total_time={seconds - row.seconds}", f"-timeout={DEAF}", f"-rss_limit_mb={MEMORY}"]
        command = [sys.executable, "-m", "benchmarks.robustness.fuzz_worker", target, str(work), str(folder)]
        before = len(artifacts(folder))
        done = subprocess.run(
            [*command, *options, "-print_final_stats=1", "-seed=1"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
        log = done.stdout.decode(errors="replace")
        (folder / "log").write_text(log, encoding="utf-8")
        ran = note(row, log)
        if done.returncode == 0:
            row.seconds = seconds
            break
        if len(artifacts(folder)) == before:
            raise SystemExit(f"{target}: the fuzzer ends with {done.returncode}: {log[-2000:]}")
        row.seconds = min(seconds - 1, row.seconds + max(ran, 1))
    for path in reports(folder):
        place = path.read_text(encoding="utf-8").partition("\n")[0]
        (row.hangs if place.startswith(Hang.__name__) else row.crashes).append(place)
    for path in artifacts(folder):
        kind = {"timeout": row.hangs, "oom": row.full}.get(path.name.split("-")[0])
        (row.crashes if kind is None else kind).append(path.name)
    return row


def artifacts(folder: Path) -> list[Path]:
    """Return the files that libFuzzer has kept because they ended it."""
    return sorted(path for kind in ("crash", "timeout", "oom", "leak") for path in folder.glob(f"{kind}-*"))


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    if not (options.atheris / "atheris").is_dir():
        raise SystemExit(
            f"{options.atheris}: found no atheris, expected it there: "
            f"pip install --no-deps --target {options.atheris} atheris==3.0.0"
        )
    kept, faults = Kept(options.out, "fuzz", [*TARGETS]), False
    about = f"{machine()}, {today()} (`python -m benchmarks.robustness.fuzz`)."
    for target in options.targets:
        row = fuzz(target, options.work.absolute(), options.atheris.absolute(), options.seconds)
        print(" | ".join(row.cells()), *row.faults, sep="\n  ", flush=True)
        kept.keep(target, about, [row.cells()], [f"{target}: {fault}" for fault in row.faults])
        kept.write("Fuzzing", HEAD, MARKERS)
        faults |= bool(row.faults)
    if faults:
        sys.exit(1)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    options = parser("robustness.fuzz", __doc__)
    options.add_argument("--targets", nargs="+", choices=TARGETS, default=[*TARGETS], metavar="TARGET")
    options.add_argument("--seconds", type=int, default=180, help="of each target; default: 180")
    options.add_argument("--work", type=Path, default=CACHE / "fuzz", help="keeps what is found and reached")
    options.add_argument("--atheris", type=Path, default=CACHE / "atheris", help="where atheris is")
    options.add_argument("--out", type=Path, default=RESULTS, help="where fuzz.json and .md go")
    return options.parse_args(arguments)


if __name__ == "__main__":
    main()
