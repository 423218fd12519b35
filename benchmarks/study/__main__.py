"""Why the anchor works, measured: accuracy on held-out training lines along each of the method's numbers, one
at a time.

    python -m benchmarks.study --data DATA/text                    (hours on two cores; finished rows are
                                                                   kept, so it can be stopped)
    python -m benchmarks.study --data DATA/text --only length direction

Every row is one calibration in full precision, `anchored` but for what the row names. It is judged on lines
of `train.tsv.gz` that no expert learned from and that no calibration sees: settings may be chosen on them.
Nothing here reads a test line.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import RESULTS, ROOT
from benchmarks.accuracy.laboratory import CPU
from benchmarks.accuracy.suites import TEXT
from benchmarks.experts.text_tasks import HELD_OUT, lines, packaged_base
from benchmarks.machine import machine
from converters import open_family
from epmq_export import files
from epmq_export.calibration.anchor import with_length
from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import Calibrator, TaskData
from epmq_export.calibration.divergence import divergence
from epmq_export.calibration.method import PRESETS, Method
from epmq_export.data.labels import worded
from epmq_export.grids.layout import Layout
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

STUDY = RESULTS / "study.json"
PLOTS = ROOT / "docs" / "plots"
# What a row is without a word: the default merge and method on the eight tasks, each expert listed once.
USUAL: dict[str, Any] = {
    "rule": "tsvm",
    "tasks": 8,
    "copies": 1,
    "samples": 32,
    "length": 1.0,
    "alpha": 0.5,
    "lambda": 0.1,
}
AXES: dict[str, list[dict[str, Any]]] = {
    # Lengths are shares of the automatic one.
    "length": [
        {"rule": rule, "length": x}
        for rule in ("tsvm", "task_arithmetic")
        for x in (1.0, 0.25, 0.5, 0.7, 1.4, 2.0)
    ]
    + [{"tasks": n, "length": x} for n in (4, 2) for x in (0.25, 0.5, 1.0, 1.4, 2.0)],
    "direction": [{"rule": rule} for rule in ("ties", "iso_c", "iso_cts")]
    + [{"rule": rule, "tasks": n} for n in (4, 2) for rule in ("task_arithmetic", "iso_c")],
    "copies": [
        {"rule": "task_arithmetic", "tasks": 4},
        *({"rule": "task_arithmetic", "tasks": 4, "copies": 3, "length": x} for x in (1.0, 3.0)),
    ],
    "samples": [{"samples": x} for x in (8, 16, 64)],
    "alpha": [{"alpha": x} for x in (0.0, 0.25, 0.75, 1.0)],
    "lambda": [{"lambda": x} for x in (0.02, 0.5)],
    "wudi": [{"rule": "wudi"}],
}


@dataclass(frozen=True)
class Bench:
    family: Family
    base: TypedSource
    experts: Mapping[str, TypedSource]
    texts: Mapping[str, list[str]]
    """To calibrate on, as many as there are."""

    held: Mapping[str, list[Sample]]
    truth: Mapping[str, Tensor]
    heads: Mapping[str, Head]
    wanted: Mapping[str, Tensor]
    """The experts' outputs on the held-out lines."""

    start: Mapping[str, Tensor]
    """The base's."""

    merges: dict[tuple[str, int, int], Kept] = field(default_factory=dict)
    """By rule, number of tasks and copies."""

    @classmethod
    def open(cls, data: Path, experts: Path, count: int) -> "Bench":
        family = open_family(packaged_base())
        base = renamed(open_checkpoint(str(packaged_base())), family.canonical)
        sources = {
            task: renamed(open_checkpoint(str(experts / task)), family.canonical)
            for task in TEXT.tasks
            if (experts / task).is_dir()
        }
        rows = {task: lines(data / task / "train.tsv.gz") for task in sources}
        held = {
            task: [family.truncate(text) for _, text in rows[task][-HELD_OUT:][:count]] for task in sources
        }
        truth = {
            task: torch.tensor([label for label, _ in rows[task][-HELD_OUT:][:count]]) for task in sources
        }
        names = {
            task: json.loads((data / task / "labels.json").read_text(encoding="utf-8")) for task in sources
        }
        return cls(
            family,
            base,
            sources,
            {task: [text.strip() for _, text in rows[task][:-HELD_OUT]] for task in sources},
            held,
            truth,
            {task: Head(_outputs(family, base, [worded(name) for name in names[task]])) for task in sources},
            {task: _outputs(family, source, held[task]) for task, source in sources.items()},
            {task: _outputs(family, base, held[task]) for task in sources},
        )

    def row(self, what: Mapping[str, Any]) -> dict[str, Any]:
        """Calibrate as `what` says, and judge."""
        tasks = [task for task in TEXT.tasks[: what["tasks"]] if task in self.experts]
        # More copies stand for experts of one task that were trained alike.
        experts = [self.experts[task] for task in tasks] * what["copies"]
        settings = merge_settings(
            what["rule"],
            [Level({"lambda": 1.0})],
            [(f"expert {index}", Level()) for index in range(len(experts))],
        )
        merge = self.merges.setdefault(
            (what["rule"], len(tasks), what["copies"]), Kept(merged(self.base, experts, settings))
        )
        method = with_length(_method(what), self.family, self.base, experts, merge)
        assert method.rho != "auto"
        method = replace(method, rho=method.rho * what["length"])
        data = [
            TaskData(
                task,
                self.experts[task],
                [self.family.truncate(text) for text in choose(self.texts[task], what["samples"], 0)],
                self.heads[task],
            )
            for task in tasks
        ]
        calibrator = Calibrator(self.family, self.base, merge, data, method, Layout("F32", "F32"), CPU)
        tensors = {
            name: value
            for _, result in calibrate_blocks(calibrator)
            for name, value in result.tensors.items()
        }
        return {"rho": method.rho, **self.judge(Values(tensors), tasks)}

    def judge(self, source: TensorSource, tasks: Sequence[str]) -> dict[str, Any]:
        """Means over the tasks; accuracy by task besides."""
        outputs = {task: _outputs(self.family, source, self.held[task]) for task in tasks}
        scores = {task: accuracy(outputs[task], self.heads[task], self.truth[task]) for task in tasks}
        return {
            "accuracy": _mean(scores.values()),
            "experts": _mean(
                accuracy(self.wanted[task], self.heads[task], self.truth[task]) for task in tasks
            ),
            "divergence": _mean(
                float(divergence(outputs[task], self.wanted[task], self.heads[task]).mean()) for task in tasks
            ),
            "cosine": _mean(agreement(outputs[task], self.wanted[task]) for task in tasks),
            "gain": _mean(gain(outputs[task], self.wanted[task], self.start[task]) for task in tasks),
            "by task": scores,
        }


def gain(outputs: Tensor, wanted: Tensor, start: Tensor) -> float:
    """How much of the expert's change of the base's outputs is there: the projection of ours on it, as a
    share of it; 1 is all of it.
    """
    change = (wanted - start).double()
    return float(((outputs - start).double() * change).sum() / change.square().sum())


def _method(what: Mapping[str, Any]) -> Method:
    return PRESETS["anchored"].override(alpha=what["alpha"], rho="auto", damping=what["lambda"])


def _outputs(family: Family, source: TensorSource, samples: Sequence[Sample]) -> Tensor:
    return torch.from_numpy(reference.outputs(family, source, samples, CPU))


def _mean(values: Any) -> float:  # noqa: ANN401
    found = [float(value) for value in values]
    return sum(found) / len(found)


def planned(axes: Sequence[str]) -> Iterator[dict[str, Any]]:
    seen = []
    for axis in axes:
        for row in [{}, *AXES[axis]]:
            whole = {**USUAL, **row}
            if whole not in seen:
                seen.append(whole)
                yield whole


def study(given: argparse.Namespace) -> None:
    about = {"method": asdict(_method(USUAL)), "lines": given.lines, "machine": machine()}
    found: dict[str, Any] = (
        json.loads(STUDY.read_text(encoding="utf-8")) if STUDY.exists() else {"about": about, "rows": []}
    )
    if {key: found["about"][key] for key in ("method", "lines")} != {
        key: about[key] for key in ("method", "lines")
    }:
        raise SystemExit(f"{STUDY}: made with other numbers; remove it to measure anew")
    bench = Bench.open(given.data, given.experts, given.lines)
    for what in planned(given.only):
        if any(row["what"] == what for row in found["rows"]):
            continue
        found["rows"].append({"what": what, **bench.row(what)})
        found["about"]["date"] = datetime.now(UTC).strftime("%Y-%m-%d")
        with files.whole(STUDY) as built:
            built.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        row = found["rows"][-1]
        print(
            {key: value for key, value in what.items() if value != USUAL[key]} or "usual",
            f"{100 * row['accuracy']:.1f} of {100 * row['experts']:.1f}",
            end=" ",
        )
        print(
            (
                f"divergence {row['divergence']:.4f} cosine {row['cosine']:.3f} gain {row['gain']:.2f} rho "
                f"{row['rho']:.2f}"
            ),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/text"))
    parser.add_argument("--experts", type=Path, default=Path.home() / ".cache/epmq/experts/minilm-full")
    parser.add_argument(
        "--only", nargs="+", choices=AXES, default=tuple(AXES), metavar="AXIS", help=f"of {', '.join(AXES)}"
    )
    parser.add_argument("--lines", type=int, default=150, help="held-out lines a task")
    study(parser.parse_args())


if __name__ == "__main__":
    main()
