"""The judge: how much of several experts' accuracy each method keeps, in full precision, packed, and reloaded
from GGUF and ONNX; and each peer.

    python benchmarks/accuracy.py --data DATA/text                         (the whole table: hours on two
                                                                           cores)
    python benchmarks/accuracy.py --data DATA/text --lines 100 --merges "TA 0.3" --methods gptq epmq --out
    /tmp/quick
    python benchmarks/accuracy.py --data DATA/text --methods --peers --grids Q4_1 Q4_K Q2_K    (the default
                                                                                               method on other
                                                                                               grids)
    python benchmarks/accuracy.py --data DATA/text --counts 2 4 8 11       (how the gap grows with the number
                                                                           of tasks)
    python benchmarks/accuracy.py --suite image --data DATA/image --peers  (the same of image tasks, into
                                                                           results/image)

DATA/text holds a folder a task, as benchmarks/train_experts.py reads it; that script trains the experts.
Calibration takes sentences from `train.tsv.gz`, without labels; scores are on the first lines of
`test.tsv.gz`, against frozen heads of label embeddings. Peers (benchmarks/peers) are given the same merged
model and the same calibration sentences. What tunes or refines, and grids other than Q4_0, are measured after
the first of the merges alone.

Every finished row is saved at once, as accuracy.json and accuracy.md, so an interrupted run goes on where it
stopped. Afterwards, `python benchmarks/readme.py` puts the averages into README.md.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import counts
import torch
from laboratory import CPU, MERGES, METHODS, Experiment, Laboratory
from peers import Merge, Peer, known
from rows import GRID, PEERS, Results
from suites import SUITES, TEXT, Suite

from cli import chain
from converters import open_family
from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS
from epmq_export.errors import EpmqError
from epmq_export.grids import GRIDS
from epmq_export.models.family import calibrated_on
from epmq_export.models.samples import Sample
from epmq_export.recipe.values import ONNX_GRIDS
from epmq_export.tensors import packed as packed_checkpoint
from epmq_export.tensors.packed import Packed
from epmq_export.verification.tasks.bench import Bench, Outputs
from epmq_export.verification.tasks.open import open_bench

# What is more than one solve: a search, or training.
LONG = tuple(name for name, calibration in METHODS.items() if {"tune", "refine"} & calibration.keys())
# Packages that decide pictures alone: rows of texts outlive them.
NOT_OF_TEXTS = ("pillow",)
CHOSEN = ("gptq", "epmq", DEFAULT_METHOD, *LONG)


@dataclass(frozen=True)
class Judge:
    laboratory: Laboratory
    results: Results
    bench: Bench

    @classmethod
    def open(cls, laboratory: Laboratory, out: Path, restart: bool) -> "Judge":
        """With the rows that every other row is held against."""
        first = laboratory.experiment(next(iter(MERGES)), DEFAULT_METHOD)
        origin, family = first.origin, first.sources.family
        readers = [chain().reader(family, format) for format in family.runtimes]
        unused = NOT_OF_TEXTS if laboratory.suite is TEXT else ()
        versions = {name: found for name, found in origin["versions"].items() if name not in unused}
        about = {
            "settings": {
                "tasks": list(laboratory.tasks),
                "lines": laboratory.lines,
                "samples": laboratory.samples,
                "suite": laboratory.suite.name,
            },
            "inputs": origin["inputs"],
            "versions": versions | {each.name: each.version() for each in readers},
            "machine": machine(),
        }
        judge = cls(laboratory, Results(out, about, restart), open_bench(first.sources, first.tasks, CPU))
        if judge.results.find("", "", "experts") is None:
            judge.results.add("", "", "experts", judge.bench.scores(judge.bench.experts), {})
        if judge.results.find("", "", "base") is None:
            judge.score("", "", "base", partial(first.outputs, first.sources.base), {})
        return judge

    def score(
        self,
        merge: str,
        method: str,
        stage: str,
        run: Callable[[Sequence[Sample]], Outputs],
        facts: dict[str, Any],
    ) -> None:
        self.results.add(merge, method, stage, self.bench.scores(self.bench.outputs(run)), facts)

    def merged(self, merge: str) -> None:
        if self.results.find(merge, "", "merged") is None:
            experiment = self.laboratory.experiment(merge, DEFAULT_METHOD)
            self.score(merge, "", "merged", partial(experiment.outputs, experiment.sources.merged), {})

    def full(self, merge: str, method: str) -> None:
        """The solve without rounding. A method that reproduces the merge gives the merge: that row is there
        already. `refine` trains what is on a grid.
        """
        asked = METHODS[method]
        if (
            PRESETS[asked["method"]].target == "experts"
            and "refine" not in asked
            and self.results.find(merge, method, "full") is None
        ):
            with self._calibrated(merge, method, None) as (experiment, packed, seconds):
                self.score(merge, method, "full", partial(experiment.outputs, packed), seconds)

    def packed(self, merge: str, method: str, reload: bool, grid: str = GRID) -> None:
        """On the grid, and, to `reload`, from the real files of every format that can hold it."""
        formats = [
            format
            for format in self.laboratory.suite.runtimes
            if reload and format != "packed" and (format != "onnx" or grid in ONNX_GRIDS)
        ]
        missing = [
            stage for stage in ("packed", *formats) if self.results.find(merge, method, stage, grid) is None
        ]
        if not missing:
            return
        with self._calibrated(merge, method, grid) as (experiment, packed, seconds):
            facts = on_grid(packed, grid)
            for stage in missing:
                if stage == "packed":
                    self.score(merge, method, stage, partial(experiment.outputs, packed), facts | seconds)
                else:
                    family, folder = open_family(packed.directory), packed.directory.with_name(stage)
                    folder.mkdir()
                    path = chain().formats[stage].write(packed, family, folder)
                    self.score(
                        merge, method, stage, partial(chain().reader(family, stage).outputs, path), facts
                    )

    def peer(self, merge: str, peer: Peer) -> None:
        """A peer's weights or file, in the runtimes that read it."""
        missing = [stage for stage in peer.stages if self.results.find(merge, peer.name, stage) is None]
        if not missing:
            return
        if lack := peer.missing():
            print(f"{merge:9}{peer.name}: left out; {lack}", flush=True)
            return
        with TemporaryDirectory(prefix="epmq-peer-") as scratch:
            given, folder = (
                full_precision(self.laboratory.experiment(merge, DEFAULT_METHOD), Path(scratch) / "merged"),
                Path(scratch) / "peer",
            )
            folder.mkdir()
            started = time.monotonic()
            quantised = peer.quantise(given, folder)
            facts = {
                "seconds": round(time.monotonic() - started, 1),
                "bits": quantised.bits,
                "note": quantised.note,
            }
            for stage in missing:
                self.score(merge, peer.name, stage, quantised.runs[stage], facts)

    def best(self) -> tuple[str, str] | None:
        """Merge and method of the best packed row that is not a peer's."""
        rows = [
            row
            for row in self.results.rows
            if row["stage"] == "packed" and row["method"] in METHODS and row.get("grid", GRID) == GRID
        ]
        best = max(rows, key=lambda row: float(row["scores"]["average"]), default=None)
        return (best["merge"], best["method"]) if best else None

    @contextmanager
    def _calibrated(
        self, merge: str, method: str, grid: str | None
    ) -> Iterator[tuple[Experiment, Packed, dict[str, float]]]:
        experiment = self.laboratory.experiment(merge, method)
        with TemporaryDirectory(prefix="epmq-accuracy-") as scratch:
            packed, seconds = experiment.calibrate(Path(scratch) / "packed", grid)
            yield experiment, packed, seconds


def on_grid(packed: Packed, grid: str) -> dict[str, Any]:
    """What rows of it tell: the grid, the bits that a weight of a linear takes on average, and which rows
    took another grid.
    """
    sizes = {name: prod(packed.shape(name)) for name in packed.grids}
    bits = sum(packed.grids[name].bits_per_weight * size for name, size in sizes.items()) / sum(
        sizes.values()
    )
    others = sorted(
        {(held.name, packed.shape(name)[1]) for name, held in packed.grids.items() if held.name != grid}
    )
    note = (
        f"{grid} gives way to {' and '.join(f'{other} for rows of {width}' for other, width in others)}"
        if others
        else None
    )
    return {"grid": grid, "bits": bits, "note": note}


def full_precision(experiment: Experiment, directory: Path) -> Merge:
    """The merged model as a checkpoint that peers read, embeddings in float16 as our own files store them."""
    family, merged = experiment.sources.family, experiment.sources.merged
    tensors = {
        name: merged.load(name).half() if name in family.embeddings else merged.load(name).float()
        for name in merged.names()
    }
    packed_checkpoint.write(directory, tensors, {"family": family.name}, family.directory)
    texts = [family.truncate(text) for task in experiment.tasks for text in task.calibration]
    return Merge(Packed(directory), family, calibrated_on(family, merged, texts, CPU))


def machine() -> str:
    """Model and cores of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def open_judge(given: argparse.Namespace, tasks: Sequence[str], out: Path, folder: Path) -> Judge:
    """SystemExit where data or experts of a task are missing."""
    suite: Suite = given.suite
    for task in tasks:
        if not suite.file(given.data, task).is_file():
            raise SystemExit(
                f"{suite.file(given.data, task)}: no such file; give --data, the folder of the "
                f"{suite.name} tasks"
            )
    if missing := [task for task in tasks if not (given.experts / task).is_dir()]:
        raise SystemExit(
            f"{given.experts}: no experts for {', '.join(missing)}; train them (some minutes each) with\n"
            f"    python benchmarks/{suite.train} --data {given.data} --out {given.experts} "
            f"{' '.join(missing)}"
        )
    return Judge.open(
        Laboratory(
            folder,
            suite.base(given.experts),
            given.experts,
            given.data,
            tasks,
            given.lines,
            given.samples,
            suite,
        ),
        out,
        given.restart,
    )


def whole_table(judge: Judge, given: argparse.Namespace) -> None:
    """What takes longest last."""
    reloaded = {"all": given.methods, "chosen": CHOSEN}.get(given.reload, ())
    rows = [
        (merge, method)
        for method in given.methods
        for merge in (given.merges[:1] if method in LONG else given.merges)
    ]
    for merge in given.merges:
        judge.merged(merge)
    for merge, method in rows:
        judge.packed(merge, method, method in reloaded)
    peers = known(given.peer_python)
    for name in given.peers:
        for merge in given.merges:
            judge.peer(merge, peers[name])
    for grid in given.grids:
        judge.packed(given.merges[0], DEFAULT_METHOD, given.reload in ("all", "chosen"), grid)
    for merge, method in rows if given.full else ():
        judge.full(merge, method)
    if given.reload == "best" and (best := judge.best()):
        judge.packed(*best, reload=True)


def by_counts(given: argparse.Namespace) -> None:
    """A table for each number of tasks, and one over them."""
    lines = []
    for count in given.counts:
        tasks = given.suite.tasks[:count]
        # The count of the main table takes its rows from there, and adds to them.
        out = given.out if list(tasks) == list(given.tasks) else given.out / f"tasks-{count}"
        with TemporaryDirectory(prefix="epmq-accuracy-") as folder:
            judge = open_judge(given, tasks, out, Path(folder))
            for merge in given.merges:
                judge.merged(merge)
            best = counts.best_merge(judge.results, given.merges)
            for method in counts.METHODS:
                judge.packed(best, method, reload=False)
            lines.append(counts.line(judge.results, best))
        counts.write(given.out, judge.results, lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--suite", choices=SUITES, default=TEXT.name)
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--experts", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None)
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=None,
        metavar="TASK",
        help="of the suite's; those of its table by default",
    )
    parser.add_argument(
        "--merges",
        nargs="+",
        choices=MERGES,
        default=tuple(MERGES),
        metavar="MERGE",
        help=f"of {', '.join(MERGES)}",
    )
    parser.add_argument(
        "--methods",
        nargs="*",
        choices=METHODS,
        default=tuple(METHODS),
        metavar="METHOD",
        help=f"of {'; '.join(METHODS)}",
    )
    parser.add_argument(
        "--grids",
        nargs="*",
        choices=GRIDS,
        default=(),
        metavar="GRID",
        help=f"besides, the default method on these, of {', '.join(GRIDS)}",
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=PEERS,
        default=tuple(PEERS),
        metavar="PEER",
        help=f"of {', '.join(PEERS)}",
    )
    parser.add_argument(
        "--peer-python",
        type=Path,
        default=None,
        help="an interpreter with llmcompressor; without it that peer's rows are left out",
    )
    parser.add_argument("--lines", type=int, default=1000, help="test sentences or images a task")
    parser.add_argument("--samples", type=int, default=64, help="calibration sentences or images a task")
    parser.add_argument(
        "--reload",
        choices=("all", "chosen", "best", "none"),
        default="chosen",
        help=(
            "which packed models are also scored as GGUF and ONNX, in their runtimes; chosen: gptq, epmq, "
            "and the default method in all its variants"
        ),
    )
    parser.add_argument(
        "--counts",
        nargs="+",
        type=int,
        choices=range(2, max(len(suite.tasks) for suite in SUITES.values()) + 1),
        metavar="N",
        help=(
            "instead of the whole table: the first N tasks for each N, best full-precision merge, gptq, "
            "epmq and the default; written as counts.md"
        ),
    )
    parser.add_argument(
        "--no-full", dest="full", action="store_false", help="leave out the solves without rounding"
    )
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument(
        "--restart", action="store_true", help="measure every row again; without it, finished rows are kept"
    )
    given = parser.parse_args()
    suite = given.suite = SUITES[given.suite]
    given.data, given.experts = (
        (given.data or suite.data).resolve(),
        (given.experts or suite.experts).resolve(),
    )  # recipes lie elsewhere
    given.out = given.out or Path(__file__).parent / "results" / suite.results
    given.tasks = given.tasks or suite.tasks[: suite.shown]
    if unknown := [task for task in given.tasks if task not in suite.tasks]:
        raise SystemExit(f"--tasks: found {unknown[0]}, expected some of {', '.join(suite.tasks)}")
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        if given.counts:
            by_counts(given)
        else:
            with TemporaryDirectory(prefix="epmq-accuracy-") as folder:
                whole_table(open_judge(given, given.tasks, given.out, Path(folder)), given)
    except EpmqError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
