"""The whole chain on a model of true shape: `epmq run` from models to verdict, beside what its dry run said.

    python -m benchmarks.speed.chain

A Llama with random weights and four LoRA experts of 32 texts are written into --work and kept there. What is
measured goes into results/chain.json and .md, and into docs/results.md between comment markers.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import RESULTS, ROOT
from benchmarks.commands import parser
from benchmarks.machine import machine, today
from benchmarks.speed.calibrations import EXPERTS, LETTERS, TEXTS, llama
from benchmarks.speed.models import SHAPES
from benchmarks.speed.process import watched
from benchmarks.tables import Markers, publish, table

EPMQ = (sys.executable, ROOT / "cli.py")
MARKERS = Markers.of("chain", "benchmarks.speed.chain")
TOLD = ("memory", "verify", "time", "around", "seconds")
# The stages of report.json by the dry run's name of them. It tells the writing of all formats together.
STAGES = {"calibrate": "calibrate", "write": "write", "score": "score the references", "verify": "verify"}


def forecast(recipe: Path) -> dict[str, Any]:
    """Return what the dry run says of time and memory, as its JSON has it."""
    command = [*map(str, EPMQ), "run", str(recipe), "--dry-run", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return {key: found[key] for key in TOLD}


def measured(recipe: Path, out: Path) -> dict[str, Any]:
    """Run the recipe from nothing; return what it took, by stage and in all, its files and its verdict.

    Raises RuntimeError where it ends with another code than that of a verdict.
    """
    shutil.rmtree(out, ignore_errors=True)
    run = watched([*EPMQ, "run", recipe, "-o", out], codes=(0, 1))
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    files = {Path(each["path"]).name: each["bytes"] for each in report["files"]}
    return {
        "seconds": run.seconds,
        "processor": run.processor,
        "own": run.own,
        "stages": report["seconds"],
        "files": files,
        "verdict": report["verdict"],
    }


def page(found: Mapping[str, Any]) -> str:
    """Return the table in Markdown."""
    told, took = found["forecast"], found["measured"]
    low, high = told["time"]["seconds"]
    ranges = {"calibrate": (low, high), **told["around"]}
    # The merge of a calibration is computed as it is read.
    first, last = ranges.pop("merge")
    ranges["calibrate"] = (low + first, high + last)
    rows = [("stage", "minutes", "the dry run's forecast")]
    for name, stage in STAGES.items():
        seconds = sum(each for key, each in took["stages"].items() if key.startswith(stage))
        rows.append((stage, _minutes(seconds), _range(*ranges[name])))
    rows.append(("all, with the start of Python", _minutes(took["seconds"]), _range(*told["seconds"])))
    files = ", ".join(f"{size / 1e6:.0f} MB ({path})" for path, size in took["files"].items())
    return (
        f"{found['what']} ({found['machine']}, {found['date']}, "
        f"`python -m benchmarks.speed.chain`).\n\n{table(rows)}\n\nThe process held "
        f"{took['own'] / 2**30:.2f} GiB of its own at most, and the dry run said "
        f"{max(told['memory']['peak'], told['verify']['peak']) / 2**30:.2f}. It took "
        f"{_minutes(took['processor'])} minutes of the processor. It wrote {files}; the verdict: "
        f"{took['verdict']}.\n"
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"


def _range(low: float, high: float) -> str:
    return f"{_minutes(low)} to {_minutes(high)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    commands = parser("speed.chain", __doc__)
    commands.add_argument("--shape", default="1.1B", choices=SHAPES, help="the shape of the model")
    commands.add_argument("--work", type=Path, default=Path.home() / ".cache" / "epmq" / "speed")
    commands.add_argument("--results", type=Path, default=RESULTS, help="the folder of the tables")
    given = commands.parse_args(arguments)
    layers = SHAPES[given.shape].layers
    folder = given.work / "chain"
    folder.mkdir(parents=True, exist_ok=True)
    recipe = llama(folder, given.shape, layers)
    found = {
        "what": f"A Llama of {given.shape}, {layers} layers, {EXPERTS} LoRA experts of {TEXTS} texts of "
        f"{LETTERS} tokens",
        "machine": machine(),
        "date": today(),
        "forecast": forecast(recipe),
        "measured": measured(recipe, folder / "out"),
    }
    publish(given.results, "chain", "The whole chain", found, page(found), MARKERS)


if __name__ == "__main__":
    main()
