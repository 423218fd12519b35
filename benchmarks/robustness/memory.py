"""The most memory that each command holds, on models of one width that are deeper, and with more experts.

    python -m benchmarks.robustness.memory
    python -m benchmarks.robustness.memory --parts depth --work ~/.cache/epmq/memory

The models are Llamas in float32 with random weights, written into --work and kept there. Each command runs in
a process of its own, which is forked from one that has done the same to a tiny model and so has imported what
it needs. What is counted is the memory that it holds beyond that, without mapped files, read every two
milliseconds: the most that a step holds lasts for little more than that. llama.cpp runs in processes of its
own, which are not counted; ONNX Runtime runs in the command's. Each row has as many calibration texts, of all
tasks together.

The part `limit` runs a deeper model, written as a GGUF alone, under a limit of a quarter of its bytes: a
command that holds more is killed. The table goes into results/memory.json and .md and into docs/results.md;
the other parts in it stay as they were measured. The exit code is 1 where a command was killed or failed.
"""

import argparse
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import yaml
from transformers.utils.logging import disable_progress_bar

import epmq_export as epmq
from benchmarks import RESULTS
from benchmarks.commands import as_asked, parser
from benchmarks.gpu.noise import Noise, texts
from benchmarks.machine import machine, today
from benchmarks.robustness.kept import Kept
from benchmarks.robustness.killing import code_of, start
from benchmarks.speed.models import Shape, with_tokenizer, write_config
from benchmarks.speed.process import held
from benchmarks.tables import Markers
from epmq_export import files
from epmq_export.models.heap import give_back
from epmq_export.tensors.safetensors_writer import write_one_by_one

SHAPE = Shape(width=256, inside=704, layers=6, heads=4, keys=4, vocabulary=2048)
TINY = Shape(width=64, inside=128, layers=2, heads=4, keys=2, vocabulary=288)
# The calibration texts of all tasks together, those of each task that judge, and the letters of a text, each
# of which is a token.
TEXTS, JUDGES, LETTERS = 40, 4, 64
COMMANDS = ("merge", "calibrate", "export", "verify")
# Those whose memory the dry run tells. It is more than the others take.
TOLD = ("calibrate", "verify")
HEAD = ("experts", "layers", "weights of a model", *COMMANDS, *(f"dry run, {name}" for name in TOLD), "limit")
MARKERS = Markers.of("memory", "benchmarks.robustness.memory")


@dataclass
class Row:
    """What each command held of one recipe, in bytes."""

    experts: int
    shape: Shape
    most: dict[str, int] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)
    """What the dry run says of these commands, in bytes."""

    limit: int | None = None
    failed: str | None = None

    @property
    def size(self) -> int:
        """Return the bytes of a model's weights."""
        return sum(4 * torch.Size(shape).numel() for _, shape in self.shape.tensors())

    def cells(self) -> tuple[str, ...]:
        most = (_mb(self.most[name]) if name in self.most else "" for name in COMMANDS)
        limit = "" if self.limit is None else _mb(self.limit)
        told = (_mb(self.told[name]) for name in TOLD)
        return str(self.experts), str(self.shape.layers), _mb(self.size), *most, *told, limit


def recipe(work: Path, shape: Shape, experts: int, formats: Sequence[str] = ("gguf", "onnx")) -> Path:
    """Return the recipe of a model and its experts. What it names is written where it is not there."""
    folder = work / f"{shape.width}-{shape.layers}"
    base = _model(folder / "base", shape, None)
    tasks = {}
    for t in range(experts):
        count = TEXTS // experts
        data = folder / f"texts-{count}-{t}.txt"
        lines = (f"{text[:LETTERS]}\n" for text in texts(count + JUDGES, LETTERS, t))
        data.write_text("".join(lines), encoding="utf-8")
        expert = _model(folder / f"expert-{t}", shape, t + 1)
        tasks[f"task{t}"] = {"expert": str(expert), "calibration": data.name}
    content = {
        "base_model": str(base),
        "merge_method": "task_arithmetic",
        "tasks": tasks,
        "calibration": {"samples": TEXTS // experts, "method": "epmq"},
        "export": {"formats": [*formats]},
    }
    place = folder / f"{experts}-{'-'.join(formats)}.yaml"
    place.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return place


def _model(directory: Path, shape: Shape, seed: int | None) -> Path:
    """Return a model's directory: the base, or with a seed an expert of it."""
    if directory.exists():
        return directory
    source = Noise(dict(shape.tensors()), torch.device("cpu"))
    if seed is not None:
        source = replace(source, seed=seed, base=source)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with files.whole(directory) as built:
        built.mkdir()
        write_one_by_one(built / "model.safetensors", source, source.names(), {"format": "pt"})
        write_config(shape, built, "float32")
        with_tokenizer(built)
    return directory


def jobs(asked: Path, out: Path) -> Mapping[str, Callable[[], object]]:
    """Return the commands on a recipe, in their order."""
    formats = epmq.load_recipe(asked).export.formats
    return {
        "merge": lambda: epmq.merge(asked, out / "merged"),
        "calibrate": lambda: epmq.calibrate(asked, out / "packed"),
        "export": lambda: epmq.export(out / "packed", out, formats=formats or ()),
        "verify": lambda: epmq.verify(out, recipe=asked),
    }


def measured(job: Callable[[], object], said: Path, limit: int | None) -> tuple[int, int]:
    """Run a job in a process of its own, which is killed where it holds more than `limit` bytes beyond those
    that it begins with. Return the most that it held beyond these, and its exit code.
    """
    # What this process has freed and still holds, the job would take without being seen to.
    give_back()
    before, most = held("self"), 0
    child = start(job, said)
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        most = max(most, held(child) - before)
        if limit is not None and most > limit:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    return most, code_of(ended[1])


def row_of(
    work: Path,
    shape: Shape,
    experts: int,
    formats: Sequence[str] = ("gguf", "onnx"),
    limit: int | None = None,
) -> Row:
    """Return what each command holds of a model of this shape."""
    asked, found = recipe(work, shape, experts, formats), Row(experts, shape, limit=limit)
    told = epmq.forecast(asked)
    assert told.memory is not None and told.verify is not None
    found.told = {"calibrate": told.memory.peak, "verify": told.verify.peak}
    said = work / "said"
    with tempfile.TemporaryDirectory(dir=work) as out:
        for name, job in jobs(asked, Path(out)).items():
            said.unlink(missing_ok=True)
            found.most[name], code = measured(job, said, limit)
            if code != 0:
                found.failed = f"{name}: {said.read_text(encoding='utf-8')[-2000:]}" if code > 0 else name
                break
    return found


def warm(work: Path) -> None:
    """Run each command on a tiny model here, so that what libraries make once is not counted as a model's."""
    asked = recipe(work, TINY, 2)
    with tempfile.TemporaryDirectory(dir=work) as out:
        for job in jobs(asked, Path(out)).values():
            job()


def by_depth(work: Path, shape: Shape) -> Iterator[Row]:
    """Yield a row for each depth."""
    for layers in (6, 24, 96) if shape is SHAPE else (2, 4):
        yield row_of(work, replace(shape, layers=layers), 2)


def by_experts(work: Path, shape: Shape) -> Iterator[Row]:
    """Yield a row for each number of experts."""
    for experts in (2, 8, 20) if shape is SHAPE else (2, 4):
        yield row_of(work, shape, experts)


def within(work: Path, shape: Shape) -> Iterator[Row]:
    """Yield the row of a model that is four times as large as the limit. Its file is a GGUF alone: ONNX
    Runtime holds a model in the command's process, and would decide what that holds.
    """
    deep = replace(shape, layers=160 if shape is SHAPE else 4)
    limit = Row(2, deep).size // 4 if shape is SHAPE else 1 << 40
    yield row_of(work, deep, 2, ("gguf",), limit)


PARTS: dict[str, Callable[[Path, Shape], Iterator[Row]]] = {
    "depth": by_depth,
    "experts": by_experts,
    "limit": within,
}


def growth(rows: Sequence[Row], what: str) -> str:
    """Return in words how many times what it holds of the first row each command holds of the last one."""
    times = (f"{name} {rows[-1].most[name] / max(rows[0].most[name], 1):.2f}" for name in COMMANDS)
    return f"Times as much with the most {what} as with the fewest: {', '.join(times)}."


def told(part: str, rows: Sequence[Row]) -> list[str]:
    """Return what stands below the table of a part."""
    what = {"depth": "layers", "experts": "experts"}.get(part)
    if failed := [f"{part}: {row.failed}" for row in rows if row.failed]:
        return failed
    return [growth(rows, what)] if what is not None and len(rows) > 1 else []


def main(arguments: Sequence[str] | None = None) -> None:
    known = _parser()
    options = known.parse_args(arguments)
    command = as_asked(known, options)
    torch.set_num_threads(1)
    disable_progress_bar()  # type: ignore[no-untyped-call]
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # Its threads would not be in a forked process.
    options.work.mkdir(parents=True, exist_ok=True)
    warm(options.work)
    kept, failed = Kept(options.out, "memory", [*PARTS]), False
    for part in options.parts:
        found: list[Row] = []
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        for row in PARTS[part](options.work, TINY if options.tiny else SHAPE):
            found.append(row)
            failed |= row.failed is not None
            print(" | ".join(row.cells()), row.failed or "", flush=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            about = f"{machine()}, {today()}, {spent:.0f} s of processor time (`{command}`)."
            kept.keep(part, about, [row.cells() for row in found], told(part, found))
            kept.write("Memory", HEAD, MARKERS)
    if failed:
        sys.exit(1)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _parser() -> argparse.ArgumentParser:
    options = parser("robustness.memory", __doc__)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], metavar="PART")
    options.add_argument("--work", type=Path, default=Path.home() / ".cache" / "epmq" / "memory")
    options.add_argument("--tiny", action="store_true", help="tiny shapes, to try the command itself")
    options.add_argument("--out", type=Path, default=RESULTS, help="where memory.json and .md go")
    return options


if __name__ == "__main__":
    main()
