"""The text experts, calibrated together in full precision and judged on held-out training lines."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.accuracy.laboratory import CPU
from benchmarks.accuracy.suites import TEXT
from benchmarks.experts.text_tasks import HELD_OUT, lines, packaged_base
from epmq_export.calibration.anchor import with_length
from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import Calibrator, TaskData
from epmq_export.calibration.divergence import divergence
from epmq_export.calibration.method import PRESETS, Method
from epmq_export.data.labels import worded
from epmq_export.grids.layout import Layout
from epmq_export.installed import registry
from epmq_export.merging.merged import merged
from epmq_export.merging.parameters import Level
from epmq_export.merging.registry import merge_settings
from epmq_export.models import reference
from epmq_export.models.family import Family
from epmq_export.models.heads import Head
from epmq_export.models.samples import Sample, choose
from epmq_export.tensors.cached import Kept
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.packed import Values
from epmq_export.tensors.source import TensorSource, TypedSource, renamed
from epmq_export.verification.tasks.scores import accuracy, agreement


@dataclass(frozen=True, kw_only=True)
class HeldOutTask:
    """One task and its expert."""

    name: str
    expert: TypedSource
    texts: Sequence[str]
    """What there is to calibrate on."""

    held: Sequence[Sample]
    truth: Tensor
    """The labels of the held-out samples, int64 [samples]."""

    head: Head
    wanted: Tensor
    """The expert's outputs on the held-out samples, float32 [samples, width]."""

    start: Tensor
    """The base's."""

    @classmethod
    def read(
        cls,
        name: str,
        data: Path,
        expert: TypedSource,
        base: TypedSource,
        family: Family,
        count: int,
        test: bool = False,
    ) -> "HeldOutTask":
        """Read a task's folder; `count` held-out lines of it judge, or as many test lines."""
        rows = lines(data / "train.tsv.gz")
        learned, left = rows[:-HELD_OUT], (lines(data / "test.tsv.gz") if test else rows[-HELD_OUT:])[:count]
        held = [family.truncate(text) for _, text in left]
        labels = json.loads((data / "labels.json").read_text(encoding="utf-8"))
        return cls(
            name=name,
            expert=expert,
            texts=[text.strip() for _, text in learned],
            held=held,
            truth=torch.tensor([label for label, _ in left]),
            head=Head(outputs_of(family, base, [worded(label) for label in labels])),
            wanted=outputs_of(family, expert, held),
            start=outputs_of(family, base, held),
        )


@dataclass(frozen=True)
class HeldOut:
    """All tasks whose expert is there."""

    family: Family
    base: TypedSource
    tasks: Mapping[str, HeldOutTask]
    merges: dict[tuple[str, int, int], Kept] = field(default_factory=dict)
    """Merged models by rule, number of tasks and copies."""

    @classmethod
    def open(cls, data: Path, experts: Path, count: int, test: bool = False) -> "HeldOut":
        """Open the packaged base and the experts; `count` held-out lines a task judge, or test lines for what
        is chosen already.
        """
        directory = packaged_base()
        family = registry().open_family(directory)
        stored = open_checkpoint(str(directory))
        base = renamed(stored, family.canonical)
        tasks = {}
        for name in TEXT.tasks:
            if (experts / name).is_dir():
                expert = renamed(open_checkpoint(str(experts / name), stored), family.canonical)
                tasks[name] = HeldOutTask.read(name, data / name, expert, base, family, count, test)
        return cls(family, base, tasks)

    def row(self, what: Mapping[str, Any]) -> dict[str, Any]:
        """Calibrate as `what` says, and judge: means over the tasks, and the accuracy of each."""
        tasks = [self.tasks[name] for name in TEXT.tasks[: what["tasks"]] if name in self.tasks]
        # More copies stand for experts of one task that were trained alike.
        experts = [task.expert for task in tasks] * what["copies"]
        settings = merge_settings(
            what["rule"],
            [Level({"lambda": 1.0})],
            [(f"expert {index}", Level()) for index in range(len(experts))],
        )
        merge = self.merges.setdefault(
            (what["rule"], len(tasks), what["copies"]), Kept(merged(self.base, experts, settings))
        )
        source, rho = self.solved(what, tasks, experts, merge)
        return {"rho": rho, **self.judge(source, tasks)}

    def solved(
        self,
        what: Mapping[str, Any],
        tasks: Sequence[HeldOutTask],
        experts: Sequence[TypedSource],
        merge: TypedSource,
    ) -> tuple[TensorSource, float]:
        """Calibrate a merge of the experts in full precision, as `what` says. Return the model's tensors and
        the rho of its anchor.
        """
        method = with_length(method_of(what), self.family, self.base, experts, merge)
        assert method.rho != "auto"
        rho = float(method.rho * what["length"])
        method = replace(method, rho=rho)
        data = [
            TaskData(
                task.name,
                task.expert,
                [self.family.truncate(text) for text in choose(task.texts, what["samples"], 0)],
                task.head,
            )
            for task in tasks
        ]
        calibrator = Calibrator(self.family, self.base, merge, data, method, Layout("F32", "F32"), CPU)
        tensors = {
            name: value
            for _, result in calibrate_blocks(calibrator)
            for name, value in result.tensors.items()
        }
        return Values(tensors), rho

    def judge(self, source: TensorSource, tasks: Sequence[HeldOutTask]) -> dict[str, Any]:
        """Return what a model is worth: means over the tasks, and the accuracy of each."""
        outputs = [(task, outputs_of(self.family, source, task.held)) for task in tasks]
        scores = {task.name: accuracy(found, task.head, task.truth) for task, found in outputs}
        return {
            "accuracy": _mean(scores.values()),
            "experts": _mean(accuracy(task.wanted, task.head, task.truth) for task in tasks),
            "divergence": _mean(
                float(divergence(found, task.wanted, task.head).mean()) for task, found in outputs
            ),
            "cosine": _mean(agreement(found, task.wanted) for task, found in outputs),
            "gain": _mean(gain(found, task.wanted, task.start) for task, found in outputs),
            "by task": scores,
        }


def gain(outputs: Tensor, wanted: Tensor, start: Tensor) -> float:
    """Return how much of the expert's change of the base's outputs is there: the projection of ours on it, as
    a share of it; 1 is all of it.
    """
    change = (wanted - start).double()
    return float(((outputs - start).double() * change).sum() / change.square().sum())


def method_of(what: Mapping[str, Any]) -> Method:
    """Return the method of a row, its anchor's length still open."""
    return PRESETS["anchored"].override(alpha=what["alpha"], rho="auto", damping=what["lambda"])


def outputs_of(family: Family, source: TensorSource, samples: Sequence[Sample]) -> Tensor:
    return torch.from_numpy(reference.outputs(family, source, samples, CPU))


def _mean(values: Iterable[float]) -> float:
    found = [float(value) for value in values]
    return sum(found) / len(found)
