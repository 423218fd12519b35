"""The judge of written files: the tasks of a recipe with the reference's outputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from epmq_export.data.task import Task
from epmq_export.models import reference
from epmq_export.models.model_set import ModelSet
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.source import TensorSource
from epmq_export.verification.statistics.lines import Lines
from epmq_export.verification.tasks.bench import Bench, Outputs, lines_of
from epmq_export.verification.tasks.open import open_bench


@dataclass(frozen=True)
class Judge:
    """The tasks of a recipe with the outputs that written files are compared with."""

    bench: Bench
    reference: Mapping[str, Outputs]
    """The outputs of the packed checkpoint, by task."""

    rows: Mapping[str, Mapping[str, Lines]]
    """What base, experts, merged model and reference make of each line of each task, by these names, and with
    `unrounded` what the calibrated model makes of them before its rounding, where that is asked for.
    """

    @classmethod
    def build(
        cls,
        sources: ModelSet,
        tasks: Sequence[Task],
        packed: Packed,
        device: torch.device,
        progress: Callable[[str, int, int], None],
        unrounded: TensorSource | None = None,
    ) -> "Judge":
        """Run base, experts, merged model, the calibrated model before its rounding where it is given, and
        packed checkpoint in PyTorch. `progress` is told the name of each, how many have run, and how many
        there are.
        """
        others: list[tuple[str, TensorSource]] = [("base", sources.base), ("merged", sources.merged)]
        others += [] if unrounded is None else [("unrounded", unrounded)]
        others.append(("reference", packed))
        total = len(others) + 1
        progress("experts", 0, total)
        bench = open_bench(sources, tasks, device)
        rows: dict[str, dict[str, Lines]] = {}
        outputs: dict[str, Outputs] = {}
        for done, (name, source) in enumerate(others, 1):
            progress(name, done, total)
            outputs = bench.outputs(partial(reference.outputs, sources.family, source, device=device))
            rows[name] = lines_of(bench, outputs)
        rows["experts"] = lines_of(bench, bench.experts)
        order = ("base", "experts", "merged", "unrounded", "reference")
        return cls(bench=bench, reference=outputs, rows={name: rows[name] for name in order if name in rows})
