"""Size and speed at the paper's size: the whole chain on CLIP models of the true shapes, randomly
initialised. It says nothing of accuracy.

    python -m benchmarks.size b32 --experts 8 --samples 256
    python -m benchmarks.size l14 --experts 20 --samples 8 --merge task_arithmetic

Base and experts are written into --work (and kept there), with a tokenizer of CLIP's size and noise as
images; `epmq run` merges, calibrates, writes GGUF and ONNX and reloads both. What its report says goes into
results/paper_size.json and .md, with the time of the forward passes alone beside that of the calibration.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks import RESULTS, ROOT
from benchmarks.commands import parser
from benchmarks.machine import machine, today
from benchmarks.size.models import LEFT, SHAPES, prepare
from benchmarks.tables import table, write_json, write_text
from epmq_export.data.images import read_pictures
from epmq_export.data.request import DataRequest
from epmq_export.installed import registry
from epmq_export.models import reference
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.source import renamed

HEAD = (
    "model",
    "experts",
    "images a task",
    "merge",
    "calibration",
    "forward passes",
    "peak memory",
    "without mapped files",
    "base, F16",
    "GGUF",
    "ONNX image tower",
    "fused",
    "graph",
)
TITLES = {"b32": "ViT-B/32", "l14": "ViT-L/14"}


def forward_seconds(base: Path, recipe: Path) -> float:
    """Return the seconds of one pass of all calibration images through one model."""
    family = registry().open_family(base)
    tasks = yaml.safe_load(recipe.read_text(encoding="utf-8"))["tasks"].values()
    pictures = [
        picture
        for task in tasks
        for picture in read_pictures(
            DataRequest(path=recipe.parent / task["calibration"]["path"], images="images")
        ).samples[:-LEFT]
    ]
    source = renamed(open_checkpoint(base), family.canonical)
    started = time.monotonic()
    reference.outputs(family, source, pictures, torch.device("cpu"))
    return time.monotonic() - started


def watched(command: list[str]) -> tuple[int, int]:
    """Run a command; return its exit code, and the most bytes of memory of its own that the process held at
    once: without mapped files, which the system drops at need (Linux).
    """
    most = 0
    with subprocess.Popen(command) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            held = re.search(r"RssAnon:\s+(\d+) kB", status.read_text(encoding="utf-8"))
            most = max(most, int(held[1]) * 1024 if held else 0)
            time.sleep(0.1)
    return process.returncode, most


def measure(name: str, experts: int, samples: int, merge: str, work: Path) -> dict[str, Any]:
    """Run the whole chain as a command; return what its report says."""
    recipe = prepare(name, SHAPES[name], experts, samples, merge, work)
    out = work / f"{recipe.stem}-out"
    command = [sys.executable, str(ROOT / "cli.py"), "run", str(recipe), "-o", str(out), "--resume"]
    code, anonymous = watched(command)
    if code not in (0, 1):
        raise SystemExit(f"{' '.join(command)}: exit code {code}")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    written = {file["format"]: file for file in report["files"]}
    return {
        "model": name,
        "experts": experts,
        "samples": samples,
        "merge": merge,
        "verdict": report["verdict"],
        "forward_seconds": forward_seconds(work / name, recipe),
        "seconds": report["seconds"],
        "peak_memory_bytes": report["peak_memory_bytes"],
        "peak_anonymous_bytes": anonymous,
        "bytes": {
            kind: {Path(each["path"]).name: each["bytes"] for each in (file, *file["others"])}
            for kind, file in written.items()
        },
        "base_bytes": sum(path.stat().st_size for path in (work / name).glob("*.safetensors")),
        "fused": written["onnx"]["notes"].get("fused"),
        "linears": written["onnx"]["notes"].get("linears"),
        "codes": {kind: file["checks"]["codes"]["equal"] for kind, file in written.items()},
        "graph": {kind: file["checks"]["graph"]["value"] for kind, file in written.items()},
    }


def text(about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table in Markdown."""
    lines = [list(HEAD)]
    for row in rows:
        seconds, forward = row["seconds"]["calibrate"], row["forward_seconds"]
        onnx = next(size for file, size in row["bytes"]["onnx"].items() if file.startswith("vision"))
        lines.append(
            [
                TITLES[row["model"]],
                str(row["experts"]),
                str(row["samples"]),
                row["merge"],
                f"{seconds / 60:.1f} min",
                f"{seconds / forward:.1f} times one over all images ({forward:.0f} s)",
                f"{row['peak_memory_bytes'] / 2**30:.1f} GiB",
                f"{row['peak_anonymous_bytes'] / 2**30:.1f} GiB",
                f"{row['base_bytes'] / 1e6:.0f} MB",
                f"{sum(row['bytes']['gguf'].values()) / 1e6:.0f} MB",
                f"{onnx / 1e6:.0f} MB",
                f"{row['fused']} of {row['linears']}",
                ", ".join(f"{kind} {value:.0e}" for kind, value in row["graph"].items()),
            ]
        )
    said = (
        "Randomly initialised models: nothing here says anything of accuracy. "
        f"{about['date']}, {about['machine']}."
    )
    return f"# Size and speed at the paper's size\n\n{said}\n\n{table(lines)}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("size", __doc__)
    options.add_argument("model", choices=SHAPES)
    options.add_argument("--experts", type=int, default=8)
    options.add_argument("--samples", type=int, default=64)
    options.add_argument("--merge", default="tsvm")
    options.add_argument("--work", type=Path, default=Path.home() / ".cache/epmq/paper-size")
    options.add_argument("--out", type=Path, default=RESULTS)
    given = options.parse_args(arguments)
    given.work.mkdir(parents=True, exist_ok=True)
    row = measure(given.model, given.experts, given.samples, given.merge, given.work)
    path = given.out / "paper_size.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    keys = ("model", "experts", "samples", "merge")
    rows = sorted(
        [each for each in kept if any(each[key] != row[key] for key in keys)] + [row],
        key=lambda each: tuple(str(each[key]) for key in keys),
    )
    about = {"machine": machine(), "date": today()}
    write_json(path, {"about": about, "rows": rows})
    write_text(path.with_suffix(".md"), text(about, rows))
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
