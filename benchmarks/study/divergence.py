"""How far 4-bit files of one merged language model are from it, and from the experts, in llama.cpp:
perplexity, KL divergence, equal first choices.

    python -m benchmarks.study.divergence --data DATA/text --lines 20

Texts are the first test lines of each task in its prompt, every token predicted from those before it.
`merged` columns say what quantising alone loses; `experts` columns hold a file against each task's own
expert. Perplexity is of the right answers, behind the prompts: that of the prompts says nothing, since no
expert is taught to write them. Peers are given the same merge and texts. Everything finished is saved at
once, as results/language/divergence.json and .md; finished rows are kept.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import torch

from benchmarks import RESULTS
from benchmarks.accuracy.judge import full_precision, on_grid
from benchmarks.accuracy.laboratory import CPU, Laboratory, by_reference, calibrated, in_runtime
from benchmarks.accuracy.suites import SUITES
from benchmarks.experts.language_tasks import TASKS
from benchmarks.machine import machine
from benchmarks.peers import known
from benchmarks.tables import table
from epmq_export import files
from epmq_export.models.samples import Sample
from epmq_export.verification.tasks.bench import Outputs
from epmq_export.verification.tasks.language import LanguageBench
from epmq_export.verification.tasks.multiple_choice import Choice
from epmq_export.verification.tasks.perplexity import divergence, same_top

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
SUITE = SUITES["language"]


def unlabelled(data: Path, experts: Path, folder: Path, task: str, lines: int) -> dict[str, Any]:
    """As the suite has the task, with nothing to answer."""
    entry = SUITE.entry(data, experts, folder, task, lines)
    del entry["labels"]
    evaluation = Path(entry["evaluation"])
    texts = [line.partition("\t")[2] for line in evaluation.read_text(encoding="utf-8").splitlines()]
    (plain := evaluation.with_suffix(".txt")).write_text("\n".join(texts) + "\n", encoding="utf-8")
    return {**entry, "evaluation": str(plain)}


def compared(
    bench: LanguageBench, found: dict[str, Outputs], expected: dict[str, Outputs]
) -> dict[str, float]:
    """Over all tokens of all tasks."""
    names = [task.name for task in bench.tasks]
    divergences = np.concatenate([divergence(found[name], expected[name]) for name in names])
    counts = [len(found[name]) for name in names]
    same = sum(
        same_top(found[name], expected[name]) * count for name, count in zip(names, counts, strict=True)
    ) / sum(counts)
    return {"kl": float(divergences.mean()), "kl_99": float(np.percentile(divergences, 99)), "same_top": same}


def answers(bench: LanguageBench, run: Callable[[Sequence[Sample]], Outputs]) -> float:
    """Perplexity of the right answers' tokens."""
    total, count = 0.0, 0
    for trial in cast(Mapping[str, Choice], bench.trials).values():
        truth = trial.truth.numpy()
        likelihoods = trial.outputs(run)
        labels = likelihoods.shape[1]
        total += float(likelihoods[np.arange(len(truth)), truth].astype(np.float64).sum())
        count += sum(len(trial.targets[i * labels + label]) for i, label in enumerate(truth))
    return float(np.exp(-total / count))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=SUITE.data)
    parser.add_argument("--experts", type=Path, default=SUITE.experts)
    parser.add_argument("--out", type=Path, default=RESULTS / "language")
    parser.add_argument("--lines", type=int, default=20, help="test texts a task")
    parser.add_argument("--samples", type=int, default=32, help="calibration texts a task")
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "divergence.json"
    settings = {"lines": given.lines, "samples": given.samples, "tasks": list(TASKS)[: SUITE.shown]}
    rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else {}
    with TemporaryDirectory(prefix="epmq-divergence-") as scratch:
        folder = Path(scratch)
        experts = given.experts.resolve()
        suite = replace(SUITE, entry=unlabelled)
        for own in (folder / "asked", folder / "plain"):
            own.mkdir()
        asked, plain = (
            Laboratory(
                own,
                SUITE.base(experts),
                experts,
                given.data.resolve(),
                settings["tasks"],
                given.lines,
                given.samples,
                kind,
            )
            for own, kind in ((folder / "asked", SUITE), (folder / "plain", suite))
        )
        experiment = asked.experiment(MERGE, "gptq")
        questions = LanguageBench.build(experiment.models, experiment.tasks, CPU)
        bench = LanguageBench.build(experiment.models, plain.experiment(MERGE, "gptq").tasks, CPU)
        merged = bench.outputs(by_reference(experiment, experiment.models.merged))

        def measure(name: str, bits: float, run: Callable[[Sequence[Sample]], Outputs]) -> None:
            found = bench.outputs(run)
            rows[name] = {
                "bits": bits,
                "perplexity": answers(questions, run),
                "merged": compared(bench, found, merged),
                "experts": compared(bench, found, dict(bench.experts)),
            }
            save(path, settings, rows)

        if "merged, full precision" not in rows:
            measure("merged, full precision", 32.0, by_reference(experiment, experiment.models.merged))
        for name in PEERS:
            peer = known()[name]
            if name not in rows and peer.missing() is None:
                with TemporaryDirectory(prefix="epmq-divergence-") as place:
                    (own := Path(place) / "peer").mkdir()
                    quantised = peer.quantise(full_precision(experiment, Path(place) / "merged"), own)
                    measure(name, quantised.bits, quantised.runs["gguf"])
        for method, grid in METHODS:
            if (name := f"{method}, {grid}") not in rows:
                with TemporaryDirectory(prefix="epmq-divergence-") as place:
                    packed, _ = calibrated(asked.experiment(MERGE, method), Path(place) / "packed", grid)
                    run = in_runtime(packed, "gguf", Path(place) / "gguf")
                    measure(name, on_grid(packed, grid)["bits"], run)


def save(path: Path, settings: dict[str, Any], rows: dict[str, Any]) -> None:
    about = {"settings": settings, "machine": machine(), "date": time.strftime("%Y-%m-%d")}
    lines = [
        [
            "",
            "bits a weight",
            "perplexity of the answers",
            "KL from the merge",
            "99 %",
            "same first choice",
            "KL from the experts",
            "same first choice",
        ]
    ]
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
    said = (
        f"{len(settings['tasks'])} tasks, {settings['lines']} test texts of each, {settings['samples']} "
        f"calibration texts of each; {MERGE} of {SUITE.subject}."
    )
    text = (
        f"# Divergence in llama.cpp\n\n{said} KL in nats a token. {about['date']}, "
        f"{about['machine']}.\n\n{table(lines)}\n"
    )
    for place, content in (
        (path, json.dumps({"about": about, "rows": rows}, indent=1) + "\n"),
        (path.with_suffix(".md"), text),
    ):
        with files.whole(place) as built:
            built.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
