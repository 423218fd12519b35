"""The judge: how much of eight experts' accuracy each method keeps, in full precision, packed, and reloaded from GGUF and ONNX.

    python benchmarks/accuracy.py --data DATA/text                         (the whole table: hours on two cores)
    python benchmarks/accuracy.py --data DATA/text --lines 100 --merges "TA 0.3" --methods gptq epmq --out /tmp/quick

DATA/text holds a folder a task, as benchmarks/train_experts.py reads it; that script trains the experts. Calibration takes sentences
from `train.tsv.gz`, without labels; scores are on the first lines of `test.tsv.gz`, against frozen heads of label embeddings.

Every finished row is saved at once, as accuracy.json and accuracy.md, so an interrupted run goes on where it stopped.
"""

import argparse
import gzip
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from train_experts import packaged_base

from cli import known_formats
from converters import open_family
from epmq_export import files, sources
from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS
from epmq_export.calibration.pack import calibrate
from epmq_export.errors import EpmqError
from epmq_export.family import TensorSource
from epmq_export.packed import Packed
from epmq_export.recipe import Recipe, RecipeQuantization, load_recipe
from epmq_export.runtimes import torch as reference
from epmq_export.tasks import Task, load_tasks
from epmq_export.verification.scores import Bench, Outputs, Scores

TASKS = ("sst2", "subj", "trec", "ag_news", "tweet_emotion", "banking77", "clinc150", "sms_spam")
MERGES: dict[str, tuple[str, dict[str, float]]] = {
    "TA 0.3": ("task_arithmetic", {"lambda": 0.3}),
    "TA 1.0": ("task_arithmetic", {"lambda": 1.0}),
    "TA 2.5": ("task_arithmetic", {"lambda": 2.5}),
    "TIES 1.0": ("ties", {"lambda": 1.0}),
}
METHODS = tuple(dict.fromkeys((DEFAULT_METHOD, *PRESETS)))
FULL = RecipeQuantization.model_construct(grid="F32", embeddings="F32")  # no recipe may ask for it: it writes no 4-bit file
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Experiment:
    """One recipe, opened."""

    recipe: Recipe
    tasks: Sequence[Task]
    checkpoints: sources.Checkpoints
    sources: sources.Sources

    @classmethod
    def open(cls, path: Path) -> "Experiment":
        recipe = load_recipe(path)
        checkpoints = sources.open_checkpoints(recipe)
        return cls(recipe, load_tasks(recipe), checkpoints, sources.open_sources(recipe, checkpoints, open_family))

    def outputs(self, source: TensorSource, texts: Sequence[str]) -> Outputs:
        return reference.outputs(self.sources.family, source, texts, CPU)

    def calibrate(self, directory: Path, quantization: RecipeQuantization) -> tuple[Packed, dict[str, float]]:
        """The packed checkpoint, and the seconds that it took, by the clock and of the processor's."""
        origin = sources.provenance(self.recipe, self.checkpoints)
        recipe = self.recipe.model_copy(update={"quantization": quantization})
        wall, busy = time.monotonic(), time.process_time()
        packed = calibrate(recipe, self.sources, self.tasks, origin, directory, CPU, False, lambda text, done, total: None)
        return packed, {"seconds": round(time.monotonic() - wall, 1), "cpu_seconds": round(time.process_time() - busy, 1)}


@dataclass(frozen=True)
class Laboratory:
    """Writes the recipes of all experiments into one folder."""

    folder: Path
    base: Path
    experts: Path
    data: Path
    tasks: Sequence[str]
    lines: int
    samples: int

    def experiment(self, merge: str, method: str) -> Experiment:
        rule, parameters = MERGES[merge]
        recipe = {
            "base_model": str(self.base),
            "merge_method": rule,
            "parameters": parameters,
            "tasks": {task: self._task(task) for task in self.tasks},
            "calibration": {"method": method, "samples": self.samples},
        }
        path = self.folder / "recipe.yaml"
        path.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
        return Experiment.open(path)

    def _task(self, name: str) -> dict[str, str]:
        evaluation = self.folder / f"{name}.tsv"
        if not evaluation.exists():
            with gzip.open(self.data / name / "test.tsv.gz", "rt", encoding="utf-8") as test:
                evaluation.write_text("".join(islice(test, self.lines)), encoding="utf-8")
        return {
            "expert": str(self.experts / name),
            "calibration": str(self.data / name / "train.tsv.gz"),
            "evaluation": str(evaluation),
            "labels": str(self.data / name / "labels.json"),
        }


class Results:
    """The rows so far, on disk after each."""

    def __init__(self, folder: Path, about: dict[str, Any], restart: bool) -> None:
        """SystemExit where the folder holds the rows of other experts, data or numbers."""
        self.json, self.markdown = folder / "accuracy.json", folder / "accuracy.md"
        self.about: dict[str, Any] = about
        self.rows: list[dict[str, Any]] = []
        if self.json.exists() and not restart:
            found = json.loads(self.json.read_text(encoding="utf-8"))
            for key in ("settings", "inputs"):
                if found["about"][key] != about[key]:
                    raise SystemExit(f"{self.json}: its {key} are not those of this run: give another --out, or --restart to replace it")
            self.rows = found["rows"]

    def find(self, merge: str, method: str, stage: str) -> dict[str, Any] | None:
        """A row that was measured with the same numbers of the method."""
        numbers = asdict(PRESETS[method]) if method else None
        return next((row for row in self.rows if (row["merge"], row["method"], row["stage"], row["numbers"]) == (merge, method, stage, numbers)), None)

    def add(self, merge: str, method: str, stage: str, scores: Scores, seconds: dict[str, float]) -> None:
        numbers = asdict(PRESETS[method]) if method else None
        self.rows = [row for row in self.rows if (row["merge"], row["method"], row["stage"]) != (merge, method, stage)]
        self.rows.append({"merge": merge, "method": method, "stage": stage, "numbers": numbers, "scores": scores, **seconds})
        order = {name: i for i, name in enumerate(("", *MERGES, *METHODS, "base", "experts", "merged", *STAGES))}
        # A row of an earlier version may name a method that is no more: it stays, at the end.
        self.rows.sort(key=lambda row: tuple(order.get(row[key], len(order)) for key in ("merge", "method", "stage")))
        self.about["date"] = datetime.now(UTC).strftime("%Y-%m-%d")
        for path, text in ((self.json, json.dumps({"about": self.about, "rows": self.rows}, indent=1) + "\n"), (self.markdown, self.text())):
            with files.whole(path) as built:
                built.write_text(text, encoding="utf-8")
        print(f"{merge:9}{method:10}{stage:8}{100 * scores['average']:6.1f}  {' '.join(f'{k} {v:g}' for k, v in seconds.items())}", flush=True)

    def text(self) -> str:
        """Two tables in Markdown: averages, and everything by task."""
        about, settings = self.about, self.about["settings"]
        tasks = settings["tasks"]
        head = (
            f"{len(tasks)} text tasks, all-MiniLM-L6-v2, full fine-tuned experts, {settings['samples']} unlabelled calibration sentences a task, "
            f"the first {settings['lines']} test sentences a task; percent. {about['date']}, {about['machine']}; "
            f"{', '.join(f'{name} {version}' for name, version in about['versions'].items())}. Written by benchmarks/accuracy.py."
        )
        merges = [merge for merge in MERGES if any(row["merge"] == merge for row in self.rows)]
        averages = [["", "precision", *merges]]
        for method, stages in [("", ["merged"]), *((method, STAGES) for method in METHODS)]:
            for stage in stages:
                cells = [next((_percent(row["scores"]["average"]) for row in self._of(merge, method, stage)), "") for merge in merges]
                if any(cells):
                    averages.append([method or "merged", STAGES.get(stage, STAGES["full"]), *cells])
        each = [["merge", "method", "precision", *tasks, "average", "recovered", "seconds"]]
        for row in self.rows:
            scores = [_percent(row["scores"][task]) for task in (*tasks, "average")]
            precision = STAGES.get(row["stage"], STAGES["full"])
            each.append([row["merge"], row["method"] or row["stage"], precision, *scores, self._recovered(row), f"{row.get('seconds', '')}"])
        return f"# Accuracy\n\n{head}\n\n## Averages\n\n{_table(averages)}\n\n## By task\n\n{RECOVERED}\n\n{_table(each)}\n"

    def _of(self, merge: str, method: str, stage: str) -> Iterator[dict[str, Any]]:
        return (row for row in self.rows if (row["merge"], row["method"], row["stage"]) == (merge, method, stage))

    def _recovered(self, row: dict[str, Any]) -> str:
        ends = [float(end["scores"]["average"]) for name in ("base", "experts") for end in self._of("", "", name)]
        if len(ends) < 2 or ends[0] == ends[1]:
            return ""
        return _percent((row["scores"]["average"] - ends[0]) / (ends[1] - ends[0]))


STAGES = {"full": "full", "packed": "Q4_0, PyTorch"} | {name: f"Q4_0, {runtime.name}" for name, (_, runtime) in known_formats().items()}
RECOVERED = "Recovered: (row - base) / (experts - base). Seconds: of calibration, by the clock."


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _table(rows: list[list[str]]) -> str:
    lines = [" | ".join(row) for row in rows]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join("---" for _ in rows[0]), *lines[1:]))


@dataclass(frozen=True)
class Judge:
    laboratory: Laboratory
    results: Results
    bench: Bench

    def score(self, merge: str, method: str, stage: str, run: Callable[[Sequence[str]], Outputs], seconds: dict[str, float]) -> None:
        self.results.add(merge, method, stage, self.bench.scores(self.bench.outputs(run)), seconds)

    def merged(self, merge: str) -> None:
        if self.results.find(merge, "", "merged") is None:
            experiment = self.laboratory.experiment(merge, DEFAULT_METHOD)
            self.score(merge, "", "merged", partial(experiment.outputs, experiment.sources.merged), {})

    def full(self, merge: str, method: str) -> None:
        """The solve without rounding. A method that reproduces the merge gives the merge: that row is there already."""
        if PRESETS[method].target == "experts" and self.results.find(merge, method, "full") is None:
            with self._calibrated(merge, method, FULL) as (experiment, packed, seconds):
                self.score(merge, method, "full", partial(experiment.outputs, packed), seconds)

    def packed(self, merge: str, method: str, formats: Sequence[str]) -> None:
        """On the grid, and reloaded from the real files."""
        missing = [stage for stage in ("packed", *formats) if self.results.find(merge, method, stage) is None]
        if not missing:
            return
        with self._calibrated(merge, method, RecipeQuantization()) as (experiment, packed, seconds):
            for stage in missing:
                if stage == "packed":
                    self.score(merge, method, stage, partial(experiment.outputs, packed), seconds)
                else:
                    format, runtime = known_formats()[stage]
                    folder = packed.directory.with_name(stage)
                    folder.mkdir()
                    self.score(merge, method, stage, partial(runtime.outputs, format.write(packed, open_family(packed.directory), folder)), {})

    def best(self) -> tuple[str, str] | None:
        """Merge and method of the best packed row."""
        rows = [row for row in self.results.rows if row["stage"] == "packed"]
        best = max(rows, key=lambda row: float(row["scores"]["average"]), default=None)
        return (best["merge"], best["method"]) if best else None

    @contextmanager
    def _calibrated(self, merge: str, method: str, quantization: RecipeQuantization) -> Iterator[tuple[Experiment, Packed, dict[str, float]]]:
        experiment = self.laboratory.experiment(merge, method)
        with TemporaryDirectory(prefix="epmq-accuracy-") as scratch:
            packed, seconds = experiment.calibrate(Path(scratch) / "packed", quantization)
            yield experiment, packed, seconds


def machine() -> str:
    """Model and cores of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or platform.machine())
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def judge(given: argparse.Namespace, folder: Path) -> None:
    laboratory = Laboratory(folder, packaged_base(), given.experts, given.data, given.tasks, given.lines, given.samples)
    for task in given.tasks:
        if not (given.data / task / "test.tsv.gz").is_file():
            raise SystemExit(f"{given.data / task}: no test.tsv.gz; give --data, a folder with a folder for each task")
    if missing := [task for task in given.tasks if not (given.experts / task).is_dir()]:
        raise SystemExit(
            f"{given.experts}: no experts for {', '.join(missing)}; train them (some minutes each) with\n"
            f"    python benchmarks/train_experts.py --data {given.data} --out {given.experts} {' '.join(missing)}"
        )
    first = laboratory.experiment(given.merges[0], DEFAULT_METHOD)
    origin = sources.provenance(first.recipe, first.checkpoints)
    about = {
        "settings": {"tasks": list(given.tasks), "lines": given.lines, "samples": given.samples},
        "inputs": origin["inputs"],
        "versions": origin["versions"] | {runtime.name: runtime.version() for _, runtime in known_formats().values()},
        "machine": machine(),
    }
    results = Results(given.out, about, given.restart)
    bench = Bench.build(first.sources, first.tasks, CPU)
    judge = Judge(laboratory, results, bench)
    if results.find("", "", "experts") is None:
        results.add("", "", "experts", bench.scores(bench.experts), {})
    if results.find("", "", "base") is None:
        judge.score("", "", "base", partial(first.outputs, first.sources.base), {})
    for merge in given.merges:
        judge.merged(merge)
    reloaded = {"all": given.methods, "chosen": (DEFAULT_METHOD, "gptq", "epmq")}.get(given.reload, ())
    for method in given.methods:
        for merge in given.merges:
            judge.packed(merge, method, list(known_formats()) if method in reloaded else [])
            judge.full(merge, method)
    if given.reload == "best" and (best := judge.best()):
        judge.packed(*best, list(known_formats()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/text"))
    parser.add_argument("--experts", type=Path, default=Path.home() / ".cache/epmq/experts/minilm-full")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, metavar="TASK")
    parser.add_argument("--merges", nargs="+", choices=MERGES, default=tuple(MERGES), metavar="MERGE", help=f"of {', '.join(MERGES)}")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--lines", type=int, default=1000, help="test sentences a task")
    parser.add_argument("--samples", type=int, default=64, help="calibration sentences a task")
    parser.add_argument(
        "--reload",
        choices=("all", "chosen", "best", "none"),
        default="chosen",
        help="which packed models are also written as GGUF and ONNX and scored in their runtimes; chosen: the default method, gptq and epmq",
    )
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--restart", action="store_true", help="measure every row again; without it, finished rows are kept")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        with TemporaryDirectory(prefix="epmq-accuracy-") as folder:
            judge(given, Path(folder))
    except EpmqError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
