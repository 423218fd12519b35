"""Whether anything that needs no labels tells a calibrated model that is worse than the merge it came from.

    python -m benchmarks.study.guard --data DATA/text --experts DIR --called WORDS
    python -m benchmarks.study.guard --data DATA/text --test

A pair takes a minute of a core or two, and finished ones are kept.

For each set of so many tasks, the merge (TSV-M) and `anchored` after it, both in full precision, are held
against the experts on texts that were not calibrated on, by measures that use no label:

- divergence: KL from the expert over the task's classes, which `tune` and `refine` lower;
- cosine: 1 - the cosine of the outputs;
- answers: the share of texts that the expert answers otherwise;
- regret: the probability that the expert gives its own answer, less that it gives ours.

A guard ships the model of the lower measure, the mean over the tasks. What it would have been worth is the
accuracy of its choices: on held-out training lines, to choose a measure on, or with `--test` on test lines,
where the demo's LoRA experts, which have learned the held-out lines, are judged. Writes
results/guard[_test].{json,md}.
"""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import RESULTS, ROOT
from benchmarks.commands import parser
from benchmarks.machine import machine, today
from benchmarks.study.axes import USUAL
from benchmarks.study.held_out import HeldOut, HeldOutTask, outputs_of
from benchmarks.tables import percent, table, write_json, write_text
from epmq_export.calibration.divergence import divergence
from epmq_export.merging.merged import merged
from epmq_export.merging.parameters import Level
from epmq_export.merging.registry import merge_settings
from epmq_export.models.heads import Head
from epmq_export.models.samples import Sample, choose
from epmq_export.tensors.cached import Kept
from epmq_export.tensors.source import TensorSource
from epmq_export.verification.tasks.scores import accuracy, cosines

EXPERTS = ROOT / "epmq_export" / "demo" / "adapters"
TEXTS = (16, 64, 256)
"""How many texts of each task a guard could have looked at. The smaller numbers are parts of the largest."""

MERGED, CALIBRATED = "merged", "anchored"
MEASURES = ("divergence", "cosine", "answers", "regret")
Row = dict[str, Any]


def measures(outputs: Tensor, expert: Tensor, head: Head) -> dict[str, Tensor]:
    """Return each measure of a model's outputs, float [n, width], against the expert's, float [n]: 0 where
    they agree, and never below.
    """
    wanted = torch.softmax(head.logits(expert.float()), 1)
    ours, theirs = head.logits(outputs.float()).argmax(1), wanted.argmax(1)
    return {
        "divergence": divergence(outputs, expert, head),
        "cosine": 1 - cosines(outputs, expert),
        "answers": (ours != theirs).double(),
        "regret": wanted.amax(1) - wanted.gather(1, ours[:, None])[:, 0],
    }


class Unlabelled:
    """The texts of each task that nothing was calibrated on, and what the experts make of them."""

    def __init__(self, held_out: HeldOut, samples: int) -> None:
        self._held_out, self._samples = held_out, samples
        self._known: dict[str, tuple[list[Sample], Tensor]] = {}

    def of(self, task: HeldOutTask) -> tuple[list[Sample], Tensor]:
        """Return the texts of a task, in a random order, and its expert's outputs."""
        if task.name not in self._known:
            calibrated = set(choose(task.texts, self._samples, 0))
            found: list[str] = []
            for count in TEXTS:  # A smaller choice is a part of a larger one, so each adds to the last.
                chosen = choose(task.texts, self._samples + count, 0)
                found += [text for text in chosen if text not in calibrated and text not in set(found)]
            family = self._held_out.family
            texts: list[Sample] = [family.truncate(text) for text in found]
            self._known[task.name] = texts, outputs_of(family, task.expert, texts)
        return self._known[task.name]

    def judge(self, source: TensorSource, task: HeldOutTask) -> dict[str, Any]:
        """Return a model's accuracy on the held-out lines of a task, and each measure by number of texts."""
        family = self._held_out.family
        texts, wanted = self.of(task)
        found = measures(outputs_of(family, source, texts), wanted, task.head)
        return {
            "accuracy": accuracy(outputs_of(family, source, task.held), task.head, task.truth),
            "expert": accuracy(task.wanted, task.head, task.truth),
            **{
                name: {str(count): float(values[:count].double().mean()) for count in TEXTS}
                for name, values in found.items()
            },
        }


def row(held_out: HeldOut, unlabelled: Unlabelled, names: Sequence[str], samples: int) -> Row:
    """Return what the merge of some tasks' experts and its calibration are worth, by task."""
    tasks = [held_out.tasks[name] for name in names]
    experts = [task.expert for task in tasks]
    settings = merge_settings(
        str(USUAL["rule"]), [Level({"lambda": 1.0})], [(task.name, Level()) for task in tasks]
    )
    merge = Kept(merged(held_out.base, experts, settings))
    solved, rho = held_out.solved({**USUAL, "samples": samples}, tasks, experts, merge)
    return {
        "tasks": list(names),
        "rho": rho,
        MERGED: {task.name: unlabelled.judge(merge, task) for task in tasks},
        CALIBRATED: {task.name: unlabelled.judge(solved, task) for task in tasks},
    }


def mean(found: Row, model: str, measure: str, count: int | None = None) -> float:
    """Return the mean over a row's tasks of a model's accuracy, or of a measure by so many texts."""
    values = [entry[measure] for entry in found[model].values()]
    return sum(float(value if count is None else value[str(count)]) for value in values) / len(values)


def chosen(found: Row, measure: str, count: int) -> str:
    """Return the model that a guard by this measure would ship: the calibrated one where they are equal."""
    lower = mean(found, MERGED, measure, count) < mean(found, CALIBRATED, measure, count)
    return MERGED if lower else CALIBRATED


def guards(rows: Sequence[Row]) -> list[list[str]]:
    """Return a table of the ways to choose: how often the better model was shipped, and the mean accuracy of
    what was.
    """
    better = [max((MERGED, CALIBRATED), key=lambda model: mean(each, model, "accuracy")) for each in rows]
    ways = {"always the merge": [MERGED] * len(rows), f"always `{CALIBRATED}`": [CALIBRATED] * len(rows)}
    for measure in MEASURES:
        for count in TEXTS:
            ways[f"{measure}, {count} texts a task"] = [chosen(each, measure, count) for each in rows]
    ways["by the labels themselves"] = better
    lines = [["shipped is", f"`{CALIBRATED}`", "the better one", "accuracy", "worst against the other"]]
    for name, choice in ways.items():
        scores = [mean(each, model, "accuracy") for each, model in zip(rows, choice, strict=True)]
        other = [
            mean(each, MERGED if model == CALIBRATED else CALIBRATED, "accuracy")
            for each, model in zip(rows, choice, strict=True)
        ]
        equal = [score >= rest for score, rest in zip(scores, other, strict=True)]
        worst = min(score - rest for score, rest in zip(scores, other, strict=True))
        lines.append(
            [
                name,
                f"{choice.count(CALIBRATED)} of {len(rows)}",
                f"{sum(equal)} of {len(rows)}",
                percent(sum(scores) / len(scores)),
                f"{100 * worst:+.1f}",
            ]
        )
    return lines


def each_row(rows: Sequence[Row]) -> list[list[str]]:
    """Return a table of the rows: accuracy and the measures by the most texts, merge and calibrated."""
    lines = [["tasks", "experts", "accuracy", *MEASURES]]
    for found in rows:
        cells = [
            ", ".join(f"{mean(found, model, measure, TEXTS[-1]):.3f}" for model in (MERGED, CALIBRATED))
            for measure in MEASURES
        ]
        scores = ", ".join(percent(mean(found, model, "accuracy")) for model in (MERGED, CALIBRATED))
        experts = percent(mean(found, MERGED, "expert"))
        lines.append([" + ".join(found["tasks"]), experts, scores, *cells])
    return lines


def text(about: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Return the tables in Markdown."""
    head = (
        f"{len(rows)} sets of tasks, all-MiniLM-L6-v2; {about['experts']} experts, {about['samples']} "
        f"calibration texts a task, judged on {about['lines']} {about['judge']} lines a task, in full "
        f"precision, percent. {about['date']}, {about['machine']}. Written by "
        "`python -m benchmarks.study.guard`."
    )
    told = f"Pairs are those of the merge and of `{CALIBRATED}`; measures by {TEXTS[-1]} texts a task."
    parts = [
        "# A guard without labels",
        head,
        table(guards(rows)),
        "## Each set",
        told,
        table(each_row(rows)),
    ]
    return "\n\n".join(parts) + "\n"


def study(given: Namespace) -> None:
    """Measure the sets of tasks that `--out` has not, and save each. SystemExit where it has rows of other
    settings.
    """
    about = {"experts": given.called, "samples": given.samples, "lines": given.lines, "machine": machine()}
    about["judge"] = "test" if given.test else "held-out training"
    path = given.out / ("guard_test.json" if given.test else "guard.json")
    content: dict[str, Any] = (
        json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"about": about, "rows": []}
    )
    if any(content["about"][key] != about[key] for key in about):
        raise SystemExit(f"{path}: made with other settings; give another --out, or remove it")
    held_out = HeldOut.open(given.data, given.experts, given.lines, given.test)
    unlabelled = Unlabelled(held_out, given.samples)
    for size in given.counts:
        for names in combinations(held_out.tasks, size):
            if any(found["tasks"] == list(names) for found in content["rows"]):
                continue
            found = row(held_out, unlabelled, names, given.samples)
            content["rows"].append(found)
            content["about"]["date"] = today()
            write_json(path, content)
            write_text(path.with_suffix(".md"), text(content["about"], content["rows"]))
            print(" | ".join(each_row([found])[1]), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("study.guard", __doc__)
    options.add_argument("--data", type=Path, required=True, help="the folder of the text tasks")
    options.add_argument("--experts", type=Path, default=EXPERTS, help="default: the demo's adapters")
    options.add_argument("--called", default="the demo's LoRA", help="what the table calls these experts")
    options.add_argument("--counts", type=int, nargs="+", default=[2], help="sizes of the sets of tasks")
    options.add_argument("--samples", type=int, default=64, help="calibration texts a task")
    options.add_argument("--lines", type=int, default=500, help="lines a task that judge")
    options.add_argument("--test", action="store_true", help="judge on test lines")
    options.add_argument("--out", type=Path, default=RESULTS, help="the folder of guard.json and .md")
    given = options.parse_args(arguments)
    study(given)


if __name__ == "__main__":
    main()
