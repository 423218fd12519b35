"""How far 4-bit files of one merged language model are from it, and from the experts, in llama.cpp:
perplexity, KL divergence, equal first choices.

    python -m benchmarks.study.divergence --data DATA/text --lines 20

Texts are the first test lines of each task in its prompt, every token predicted from those before it.
`merged` columns say what quantising alone loses; `experts` columns hold a file against each task's own
expert. Perplexity is of the right answers, behind the prompts: that of the prompts says nothing, since no
expert is taught to write them. Peers are given the same merge and texts. Everything finished is saved at
once, as results/language/divergence.json and .md; finished rows are kept.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch

from benchmarks import RESULTS
from benchmarks.accuracy.judge import full_precision, on_grid
from benchmarks.accuracy.laboratory import CPU, Laboratory, by_reference, calibrated, in_runtime
from benchmarks.accuracy.suites import LANGUAGE
from benchmarks.commands import parser
from benchmarks.machine import machine, today
from benchmarks.peers import Peer, Run, known
from benchmarks.tables import table, write_json, write_text
from epmq_export.models.samples import Sample
from epmq_export.pipeline.job import Job
from epmq_export.verification.tasks.bench import Outputs
from epmq_export.verification.tasks.language import LanguageBench
from epmq_export.verification.tasks.likelihood import divergence
from epmq_export.verification.tasks.multiple_choice import Choice
from epmq_export.verification.tasks.perplexity import same_top

MERGE = "TSV-M"
METHODS = (
    ("gptq", "Q4_0"),
    ("anchored", "Q4_0"),
    ("epmq", "Q4_0"),
    ("rtn", "Q4_0"),
    ("anchored", "Q4_K"),
    ("gptq", "Q4_K"),
)
PEERS = ("llama.cpp Q4_0, imatrix", "llama.cpp Q4_K, imatrix", "llama.cpp Q4_0")
HEAD = (
    "",
    "bits a weight",
    "perplexity of the answers",
    "KL from the merge",
    "99 %",
    "same first choice",
    "KL from the experts",
    "same first choice",
)


def unlabelled(data: Path, experts: Path, folder: Path, task: str, lines: int) -> dict[str, Any]:
    """Return what a recipe says of a task as the suite does, with nothing to answer."""
    entry = LANGUAGE.entry(data, experts, folder, task, lines)
    del entry["labels"]
    evaluation = Path(entry["evaluation"])
    texts = [line.partition("\t")[2] for line in evaluation.read_text(encoding="utf-8").splitlines()]
    (plain := evaluation.with_suffix(".txt")).write_text("\n".join(texts) + "\n", encoding="utf-8")
    return {**entry, "evaluation": str(plain)}


def compared(
    bench: LanguageBench, found: dict[str, Outputs], expected: dict[str, Outputs]
) -> dict[str, float]:
    """Return the distance of outputs from others, over all tokens of all tasks: mean and 99th percentile of
    the KL divergence in nats a token, and the share of equal first choices.
    """
    names = [task.name for task in bench.tasks]
    divergences = np.concatenate([divergence(found[name], expected[name]) for name in names])
    counts = [len(found[name]) for name in names]
    same = sum(
        same_top(found[name], expected[name]) * count for name, count in zip(names, counts, strict=True)
    ) / sum(counts)
    return {"kl": float(divergences.mean()), "kl_99": float(np.percentile(divergences, 99)), "same_top": same}


def answers(bench: LanguageBench, run: Callable[[Sequence[Sample]], Outputs]) -> float:
    """Return the perplexity of the right answers' tokens."""
    total, count = 0.0, 0
    for trial in cast(Mapping[str, Choice], bench.trials).values():
        truth = trial.truth.numpy()
        likelihoods = trial.outputs(run)
        labels = likelihoods.shape[1]
        total += float(likelihoods[np.arange(len(truth)), truth].astype(np.float64).sum())
        count += sum(len(trial.targets[i * labels + label]) for i, label in enumerate(truth))
    return float(np.exp(-total / count))


@dataclass(frozen=True)
class Comparison:
    """One merge of the experts, the questions that it is asked, and the texts that files are compared on."""

    laboratory: Laboratory
    experiment: Job
    questions: LanguageBench
    bench: LanguageBench
    merged: dict[str, Outputs]
    """The merge's outputs in full precision."""

    @classmethod
    def open(cls, folder: Path, data: Path, experts: Path, lines: int, samples: int) -> "Comparison":
        """Open both kinds of tasks; recipes are written into `folder`."""
        opened: list[Laboratory] = []
        for suite in (LANGUAGE, replace(LANGUAGE, entry=unlabelled)):
            own = folder / str(len(opened))
            own.mkdir()
            opened.append(
                Laboratory(
                    folder=own,
                    base=suite.base(experts),
                    experts=experts,
                    data=data,
                    tasks=suite.tasks[: suite.shown],
                    lines=lines,
                    samples=samples,
                    suite=suite,
                )
            )
        asked, plain = opened
        experiment = asked.experiment(MERGE, "gptq")
        questions = LanguageBench.build(experiment.models, experiment.tasks, CPU)
        bench = LanguageBench.build(experiment.models, plain.experiment(MERGE, "gptq").tasks, CPU)
        merged = bench.outputs(by_reference(experiment, experiment.models.merged))
        return cls(asked, experiment, questions, bench, merged)

    def row(self, bits: float, run: Run) -> dict[str, Any]:
        """Return what a file of so many bits a weight is worth."""
        found = self.bench.outputs(run)
        return {
            "bits": bits,
            "perplexity": answers(self.questions, run),
            "merged": compared(self.bench, found, self.merged),
            "experts": compared(self.bench, found, dict(self.bench.experts)),
        }

    def full(self) -> dict[str, Any]:
        """Return the row of the merge itself."""
        return self.row(32.0, by_reference(self.experiment, self.experiment.models.merged))

    def peer(self, peer: Peer, folder: Path) -> dict[str, Any] | None:
        """Return the row of a peer's file; None where the peer cannot run."""
        if peer.missing() is not None:
            return None
        (own := folder / "peer").mkdir()
        quantised = peer.quantise(full_precision(self.experiment, folder / "merged"), own)
        return self.row(quantised.bits, quantised.runs["gguf"])

    def ours(self, method: str, grid: str, folder: Path) -> dict[str, Any]:
        """Return the row of one of our own files."""
        packed, _ = calibrated(self.laboratory.experiment(MERGE, method), folder / "packed", grid)
        return self.row(on_grid(packed, grid)["bits"], in_runtime(packed, "gguf", folder / "gguf"))


def finished(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows that are there; SystemExit where they were measured with other settings."""
    if not path.exists():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["about"]["settings"] != settings:
        raise SystemExit(f"{path}: made with other settings; give another --out, or remove it")
    rows: dict[str, Any] = content["rows"]
    return rows


def save(path: Path, about: Mapping[str, Any], rows: Mapping[str, Any]) -> None:
    """Write the rows so far, as JSON and as a table."""
    write_json(path, {"about": about, "rows": rows})
    write_text(path.with_suffix(".md"), text(about, rows))


def text(about: Mapping[str, Any], rows: Mapping[str, Any]) -> str:
    """Return the table in Markdown."""
    lines = [list(HEAD)]
    for name, row in rows.items():
        merged, experts = row["merged"], row["experts"]
        cells = [
            f"{merged['kl']:.4f}",
            f"{merged['kl_99']:.3f}",
            f"{100 * merged['same_top']:.1f} %",
            f"{experts['kl']:.4f}",
            f"{100 * experts['same_top']:.1f} %",
        ]
        lines.append([name, f"{row['bits']:.2f}", f"{row['perplexity']:.3f}", *cells])
    settings = about["settings"]
    said = (
        f"{len(settings['tasks'])} tasks, {settings['lines']} test texts of each, {settings['samples']} "
        f"calibration texts of each; {MERGE} of {LANGUAGE.subject}."
    )
    return (
        f"# Divergence in llama.cpp\n\n{said} KL in nats a token. {about['date']}, "
        f"{about['machine']}.\n\n{table(lines)}\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("study.divergence", __doc__)
    options.add_argument("--data", type=Path, required=True, help="the folder of the text tasks")
    options.add_argument("--experts", type=Path, default=LANGUAGE.experts)
    options.add_argument("--out", type=Path, default=RESULTS / LANGUAGE.results)
    options.add_argument("--lines", type=int, default=20, help="test texts a task")
    options.add_argument("--samples", type=int, default=32, help="calibration texts a task")
    given = options.parse_args(arguments)
    torch.set_num_threads(1)
    path = given.out / "divergence.json"
    tasks = list(LANGUAGE.tasks[: LANGUAGE.shown])
    settings = {"lines": given.lines, "samples": given.samples, "tasks": tasks}
    rows = finished(path, settings)
    with TemporaryDirectory(prefix="epmq-divergence-") as folder:
        comparison = Comparison.open(
            Path(folder), given.data.resolve(), given.experts.resolve(), given.lines, given.samples
        )
        jobs: dict[str, Callable[[Path], dict[str, Any] | None]] = {
            "merged, full precision": lambda place: comparison.full()
        }
        jobs |= {name: partial(comparison.peer, known()[name]) for name in PEERS}
        jobs |= {f"{method}, {grid}": partial(comparison.ours, method, grid) for method, grid in METHODS}
        for name, job in jobs.items():
            if name not in rows:
                with TemporaryDirectory(prefix="epmq-divergence-") as place:
                    row = job(Path(place))
                if row is not None:
                    rows[name] = row
                    about = {"settings": settings, "machine": machine(), "date": today()}
                    save(path, about, rows)


if __name__ == "__main__":
    main()
