"""Measure the rows of the table: experts, base, merges, each method in full precision and packed, peers."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.accuracy.laboratory import (
    MERGES,
    METHODS,
    Laboratory,
    by_reference,
    calibrated,
    in_runtime,
)
from benchmarks.accuracy.rows import GRID, Results
from benchmarks.accuracy.suites import TEXT
from benchmarks.machine import machine
from benchmarks.peers import Merge, Peer
from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS
from epmq_export.installed import registry
from epmq_export.models.family import calibrated_on
from epmq_export.models.samples import Sample
from epmq_export.pipeline.job import Job
from epmq_export.recipe.values import ONNX_GRIDS
from epmq_export.tensors import packed_writer as packed_checkpoint
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.packed_index import PackedIndex
from epmq_export.verification.tasks.bench import Bench, Outputs, lines_of, scores_of
from epmq_export.verification.tasks.open import open_bench

# What is more than one solve: a search, or training.
LONG = tuple(name for name, asked in METHODS.items() if {"tune", "refine"} & asked.keys())
# Packages that decide pictures alone: rows of texts outlive them.
NOT_OF_TEXTS = ("pillow",)


@dataclass(frozen=True)
class Judge:
    """Measures rows that are not there yet, and adds them to the results."""

    laboratory: Laboratory
    results: Results
    bench: Bench

    @classmethod
    def open(cls, laboratory: Laboratory, out: Path, restart: bool) -> "Judge":
        """Return a judge that has the rows which every other row is held against."""
        first = laboratory.experiment(next(iter(MERGES)), DEFAULT_METHOD)
        origin, family = first.provenance(), first.models.family
        readers = [each for format in first.formats for each in registry().readers(family, format)]
        unused = NOT_OF_TEXTS if laboratory.suite.name == TEXT.name else ()
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
            "machine": machine(laboratory.device),
        }
        judge = cls(
            laboratory, Results(out, about, restart), open_bench(first.models, first.tasks, first.device)
        )
        if judge.results.find("", "", "experts") is None:
            judge.results.add("", "", "experts", scores_of(lines_of(judge.bench, judge.bench.experts)), {})
        if judge.results.find("", "", "base") is None:
            judge.score("", "", "base", by_reference(first, first.models.base), {})
        return judge

    def score(
        self,
        merge: str,
        method: str,
        stage: str,
        run: Callable[[Sequence[Sample]], Outputs],
        facts: dict[str, Any],
    ) -> None:
        """Add the row of what runs the tasks' samples; `facts` are what else it tells."""
        self.results.add(
            merge, method, stage, scores_of(lines_of(self.bench, self.bench.outputs(run))), facts
        )

    def merged(self, merge: str) -> None:
        """Measure a merge in full precision."""
        if self.results.find(merge, "", "merged") is None:
            experiment = self.laboratory.experiment(merge, DEFAULT_METHOD)
            self.score(merge, "", "merged", by_reference(experiment, experiment.models.merged), {})

    def full(self, merge: str, method: str) -> None:
        """Measure the solve without rounding, where it is a row of its own: a method that reproduces the
        merge gives the merge, and `refine` trains what is on a grid.
        """
        asked = METHODS[method]
        if (
            PRESETS[asked["method"]].target == "experts"
            and "refine" not in asked
            and self.results.find(merge, method, "full") is None
        ):
            with self._calibrated(merge, method, None) as (experiment, packed, seconds):
                self.score(merge, method, "full", by_reference(experiment, packed), seconds)

    def packed(self, merge: str, method: str, reload: bool, grid: str = GRID) -> None:
        """Measure a method on a grid, and, to `reload`, from the files of every format that can hold it."""
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
                    self.score(merge, method, stage, by_reference(experiment, packed), facts | seconds)
                else:
                    run = in_runtime(packed, stage, packed.directory.with_name(stage))
                    self.score(merge, method, stage, run, facts)

    def peer(self, merge: str, peer: Peer) -> None:
        """Measure a peer's weights or file, in the runtimes that read it; say what it lacks where it cannot
        run.
        """
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
        """Return merge and method of the best packed row that is not a peer's."""
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
    ) -> Iterator[tuple[Job, Packed, dict[str, float]]]:
        experiment = self.laboratory.experiment(merge, method)
        with TemporaryDirectory(prefix="epmq-accuracy-") as scratch:
            packed, seconds = calibrated(experiment, Path(scratch) / "packed", grid)
            yield experiment, packed, seconds


def on_grid(packed: Packed, grid: str) -> dict[str, Any]:
    """Return what a row tells of a packed checkpoint: the grid, the bits that a weight of a linear takes on
    average, and which rows took another grid.
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


def full_precision(experiment: Job, directory: Path) -> Merge:
    """Write the merged model as a checkpoint that peers read, embeddings in float16 as our own files have
    them.
    """
    family, merged = experiment.models.family, experiment.models.merged
    tensors = {
        name: merged.load(name).half() if name in family.embeddings else merged.load(name).float()
        for name in merged.names()
    }
    index = PackedIndex(family=family.name, method={}, recipe={}, inputs=[], versions={})
    packed_checkpoint.write(directory, tensors, index, family.directory)
    texts = [family.truncate(text) for task in experiment.tasks for text in task.calibration]
    return Merge(Packed(directory), family, calibrated_on(family, merged, texts, experiment.device))
