"""Time and memory of merging, of calibrating, of starting and of writing ONNX, with the machine's own rates
beside them.

    python -m benchmarks.speed --mergekit ~/mergekit/bin/mergekit-yaml
    python -m benchmarks.speed start --repeats 5

Models of true shapes with random weights are written into --work and kept there. `merge` holds each rule
against mergekit, where --mergekit names its command, in an environment of its own, and against reading all
models and writing one; `adapters` merges four LoRA adapters by TSV-M; `start` runs commands on a tiny model;
`write` exports a packed model. These are whole processes. `calibrate` holds calibrations, without reading and
merging, against the products that they cannot do without (benchmarks/speed/calibrations.py). `gptq` holds
that method against llm-compressor's, where --peer-python names an interpreter that has it. `refine` trains
the whole MiniLM. Runs of both sides alternate, and the table has medians. What was measured goes into
results/speed.json and .md, and into docs/results.md between comment markers.
"""

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks import PAGE, RESULTS, ROOT
from benchmarks.commands import parser
from benchmarks.machine import machine, today
from benchmarks.speed.asked import Asked
from benchmarks.speed.calibrations import calibrations
from benchmarks.speed.gptq import gptq
from benchmarks.speed.models import SHAPES, adapter, full_expert, pack, with_tokenizer, write_base
from benchmarks.speed.process import Rows, Run, alternating, watched
from benchmarks.speed.rates import best, rates
from benchmarks.speed.refining import refining
from benchmarks.tables import Markers, put, table, write_json, write_text

EPMQ = (sys.executable, ROOT / "cli.py")
RULES: dict[str, dict[str, float]] = {
    "task_arithmetic": {"weight": 0.3},
    "ties": {"weight": 0.3, "density": 0.5},
    "dare_ties": {"weight": 0.3, "density": 0.5},
    "della": {"weight": 0.3, "density": 0.5, "epsilon": 0.1},
}
MARKERS = Markers.of("speed", "benchmarks.speed")
HEAD = ("job", "seconds", "from, to", "processor", "own memory", "beside it", "seconds", "times as long")


def merge(asked: Asked, shape: str) -> Rows:
    """Return a row for each rule: three full experts in bfloat16."""
    work, repeats = asked.work, asked.repeats
    base = write_base(SHAPES[shape], work / shape / "base")
    experts = [full_expert(base, work / shape / f"expert-{seed}", seed) for seed in (1, 2, 3)]
    found: Rows = {}
    for rule, numbers in RULES.items():
        recipe, out = work / f"{rule}.yaml", work / "out"
        content = {
            "merge_method": rule,
            "base_model": str(base),
            "models": [{"model": str(expert), "parameters": numbers} for expert in experts],
            "dtype": "bfloat16",
        }
        recipe.write_text(yaml.safe_dump(content), encoding="utf-8")

        jobs = {"epmq": partial(fresh, out, (*EPMQ, "merge", recipe, "-o", out))}
        if asked.mergekit is not None:
            jobs["mergekit"] = partial(fresh, out, (asked.mergekit, recipe, out, "--no-copy-tokenizer"))
        found[f"merge of 3 x {shape}, {rule}"] = alternating(jobs, repeats)
    copied = {
        "seconds": best(lambda: copy(base, experts, work / "copy"), repeats)
    }  # what every merge has to read and to write
    found[f"merge of 3 x {shape}, task_arithmetic"]["reading and writing alone"] = copied
    return found


def copy(base: Path, experts: Sequence[Path], target: Path) -> None:
    """Read all weights and write those of one model."""
    for directory in experts:
        with (directory / "model.safetensors").open("rb") as file:
            while file.read(1 << 22):
                pass
    shutil.copyfile(base / "model.safetensors", target)
    target.unlink()


def fresh(out: Path, command: Sequence[str | Path]) -> Run:
    """Run a command that writes `out`, which is not there before and after."""
    shutil.rmtree(out, ignore_errors=True)
    try:
        return watched(command)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def adapters(asked: Asked, shape: str) -> Rows:
    """Return the row of four LoRA adapters of rank 16, merged by TSV-M."""
    work = asked.work
    base = write_base(SHAPES[shape], work / shape / "base")
    experts = [adapter(SHAPES[shape], base, work / shape / f"lora-{seed}", seed) for seed in range(4)]
    recipe, out = work / "tsvm.yaml", work / "out"
    models = [{"model": str(expert)} for expert in experts]
    content = {"merge_method": "tsvm", "base_model": str(base), "models": models, "dtype": "bfloat16"}
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    jobs = {"epmq": partial(fresh, out, (*EPMQ, "merge", recipe, "-o", out))}
    return {f"merge of 4 LoRA adapters on {shape}, tsvm": alternating(jobs, asked.repeats)}


def start(asked: Asked, shape: str) -> Rows:
    """Return a row for each command on a tiny model."""
    work = asked.work
    base = write_base(SHAPES["tiny"], work / "tiny" / "base")
    expert = full_expert(base, work / "tiny" / "expert", 1)
    recipe, out = work / "tiny.yaml", work / "out"
    content = {"merge_method": "linear", "base_model": str(base), "models": [{"model": str(expert)}]}
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    commands = {
        "epmq --help": (*EPMQ, "--help"),
        "epmq inspect, of a tiny model": (*EPMQ, "inspect", base),
        "epmq doctor": (*EPMQ, "doctor"),
        "epmq merge, of tiny models": (*EPMQ, "merge", recipe, "-o", out),
        "python -c 'import torch'": (sys.executable, "-c", "import torch"),
    }
    found = {}
    for name, command in commands.items():
        found[name] = alternating({"epmq": partial(fresh, out, command)}, asked.repeats)
    return found


def write(asked: Asked, shape: str) -> Rows:
    """Return the rows of writing ONNX, of a small language model and of a large one."""
    work = asked.work
    found = {}
    for each in ("tiny",) if shape == "tiny" else ("135M", "1.1B"):
        base = with_tokenizer(write_base(SHAPES[each], work / each / "base"))
        packed, out = pack(base, work / each / "packed"), work / "out"
        command = (*EPMQ, "export", packed, "--format", "onnx", "-o", out)
        jobs = {"epmq": partial(fresh, out, command)}
        found[f"export to ONNX, {each}"] = alternating(jobs, asked.repeats)
    return found


PARTS: dict[str, Callable[[Asked, str], Rows]] = {
    "merge": merge,
    "adapters": adapters,
    "start": start,
    "write": write,
    "calibrate": calibrations,
    "gptq": gptq,
    "refine": refining,
}
SHAPE = {
    "merge": "341M",
    "adapters": "1.1B",
    "start": "tiny",
    "write": "135M",
    "calibrate": "1.1B",
    "gptq": "MiniLM",
    "refine": "MiniLM",
}


def page(found: dict[str, Any]) -> str:
    """Return the tables in Markdown."""
    about = (
        f"{found['machine']}, {found['date']}, {found['repeats']} runs of each (`python -m benchmarks.speed`)"
    )
    rows = [HEAD]
    for name, tools in found["rows"].items():
        ours = tools["epmq"]
        others = {tool: each for tool, each in tools.items() if tool != "epmq"} or {"": None}
        for tool, other in others.items():
            beside = ("", "", "")
            if other is not None:
                beside = (tool, f"{other['seconds']:.2f}", f"{ours['seconds'] / other['seconds']:.2f}")
            rows.append(
                (
                    name,
                    f"{ours['seconds']:.2f}",
                    f"{ours['least']:.2f}, {ours['most']:.2f}",
                    f"{ours['processor']:.2f}",
                    f"{ours['own'] / 2**30:.2f} GiB",
                    *beside,
                )
            )
    limits = [
        ("what the machine does", "rate"),
        *((name, f"{rate:.1f}") for name, rate in found["rates"].items()),
    ]
    return f"{about}.\n\n{table(rows)}\n\n{table(limits)}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    commands = parser("speed", __doc__)
    commands.add_argument("parts", nargs="*", help=f"what to measure: {', '.join(PARTS)}; by default all")
    commands.add_argument("--work", type=Path, default=Path.home() / ".cache" / "epmq" / "speed")
    commands.add_argument("--mergekit", type=Path, help="the command mergekit-yaml of another environment")
    commands.add_argument("--peer-python", type=Path, help="an interpreter with llmcompressor")
    commands.add_argument("--repeats", type=int, default=3, help="how often each side is run")
    commands.add_argument("--tiny", action="store_true", help="tiny shapes, to try the command itself")
    commands.add_argument("--results", type=Path, default=RESULTS, help="the folder of the tables")
    given = commands.parse_args(arguments)
    if unknown := set(given.parts) - set(PARTS):
        commands.error(f"found {min(unknown)}, expected some of {', '.join(PARTS)}")
    given.work.mkdir(parents=True, exist_ok=True)
    file = given.results / "speed.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else {}
    asked = Asked(given.work, given.repeats, given.mergekit, given.peer_python)
    for name in given.parts or PARTS:
        shape = "tiny" if given.tiny else SHAPE[name]
        rows |= PARTS[name](asked, shape)
        found = {
            "machine": machine(),
            "date": today(),
            "repeats": given.repeats,
            "rates": rates(given.work, 128 if given.tiny else 2048),
            "rows": rows,
        }
        write_json(file, found)
        write_text(file.with_suffix(".md"), f"# Speed\n\n{page(found)}")
        if given.results == RESULTS:
            put(PAGE, MARKERS, page(found))
    print(page(found))


if __name__ == "__main__":
    main()
