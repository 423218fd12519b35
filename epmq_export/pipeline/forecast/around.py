"""The time of what stands around a calibration: merging, writing the files, scoring the references, and
verifying the files.

A merge is tried on linears in the middle of the model, and what they take is what all weights take. The rest
is operations over speed, and the starts of libraries and processes, which are what a small model's run takes
most of.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from epmq_export.data.task import Task
from epmq_export.merging.assembly import assemble
from epmq_export.merging.inputs import PIECE
from epmq_export.merging.merged import DTYPES
from epmq_export.merging.names import is_table
from epmq_export.merging.registry import RULES
from epmq_export.models.family import Family
from epmq_export.pipeline.forecast.costs import SLOWEST, Shape, Speed
from epmq_export.recipe.plan import plan_of
from epmq_export.recipe.recipe import Recipe
from epmq_export.tensors.source import TypedSource

Seconds = tuple[float, float]
"""The least and the most."""

# How long a merge is tried.
TRIAL = 2.0
# How often all of a merge is computed where it is not kept: for the anchor's length, for the blocks, and to
# be scored.
MERGES = 3
# The passes over the lines that judge: by the base, the merge and the reference, and by each expert over
# those of its own task. A runtime's lines are computed once more by the reference as that runtime computes.
SCORED, VERIFIED = 4, 2
# The bytes that are written a second.
WRITTEN = 1e8, 1e9
# The seconds that opening a model takes, and starting a runtime, the least and the most. They were measured
# with MiniLM, SmolLM2-135M's shape and a Llama of 1.1 billion weights on two cores (docs/results.md).
OPENED, STARTED = (0.1, 1.5), (2.0, 15.0)


@dataclass(frozen=True)
class AroundForecast:
    """How long the stages around a calibration take, in seconds, each the least and the most."""

    merge: tuple[float, float] | None
    """All of the merge; None where some of its models are not here."""

    write: tuple[float, float]
    """Writing the files."""

    score: tuple[float, float]
    """Running the base, the merge, the experts and the reference on the lines that judge."""

    verify: tuple[float, float]
    """Running the written files."""

    @property
    def whole(self) -> tuple[float, float]:
        """Return the sum of the stages that are known."""
        found = [self.write, self.score, self.verify, *([] if self.merge is None else [self.merge])]
        return sum(least for least, _ in found), sum(most for _, most in found)


def around_of(
    merge: float | None,
    blocks: Sequence[Shape],
    lines: float,
    tokens: float,
    models: int,
    sizes: Sequence[tuple[Seconds, int, int]],
    check: Seconds,
    speed: Speed,
) -> AroundForecast:
    """Return what stands around a calibration.

    `merge` are the seconds of all of the merge; `lines` those that judge, of `tokens` tokens on average, each
    counted as often as a model reads it; `models` the number of models that are scored. Each of `sizes` is a
    format: the seconds that it takes whatever it writes, the bytes of its files, and the number of its
    runtimes. `check` is the seconds of the graph check in one runtime.
    """
    once = sum(block.forward(lines * tokens, tokens) for block in blocks) / speed.single
    writing, starting, passes = [0.0, 0.0], [0.0, 0.0], 0
    for fixed, size, runtimes in sizes:
        passes += VERIFIED * runtimes
        for i in (0, 1):
            writing[i] += size / WRITTEN[1 - i] + fixed[i]
            starting[i] += (STARTED[i] + check[i]) * runtimes
    return AroundForecast(
        merge=None if merge is None else (merge, SLOWEST * merge),
        write=(writing[0], writing[1]),
        score=(SCORED * once + OPENED[0] * models, SLOWEST * SCORED * once + OPENED[1] * models),
        verify=(passes * once + starting[0], SLOWEST * passes * once + starting[1]),
    )


def merging(
    recipe: Recipe, base: TypedSource, experts: dict[str, TypedSource], names: Sequence[str], numbers: int
) -> float:
    """Return the seconds that a run spends on the merge of all its `numbers` weights, by merging the tensors
    of `names` for at most `TRIAL` seconds. `experts` are by the names that the recipe gives them.
    """
    models = {recipe.location(recipe.base_model): base}
    models |= {recipe.location(name): source for name, source in experts.items()}
    with recipe.located():
        merge = assemble(plan_of(recipe), models, DTYPES[recipe.dtype] if recipe.dtype else None)
    started, tried = time.perf_counter(), 0
    for name in names:
        tried += merge.load(name).numel()
        if time.perf_counter() - started > TRIAL:
            break
    times = 1 if RULES[recipe.merge_method].costly else MERGES
    return (time.perf_counter() - started) * times * numbers / max(tried, 1)


def merged_at_once(recipe: Recipe, family: Family) -> list[int]:
    """Return the most numbers of each block that are merged at a time: those of its largest tensor or, where
    that is merged in pieces, of a piece.
    """
    rule = RULES[recipe.merge_method]
    parts = [part for slices in plan_of(recipe).modules.values() for part in slices]
    by_rows = all(rule.by_rows(part.settings) for part in parts)

    def numbers(name: str, value: Tensor) -> int:
        in_pieces = by_rows or (rule.tables_by_rows and is_table(name))
        return min(value.numel(), PIECE) if in_pieces else value.numel()

    return [
        max(numbers(block.prefix + path, value) for path, value in block.build().state_dict().items())
        for block in family.blocks
    ]


def readings(family: Family, task: Task) -> int:
    """Return how often a model reads a line that judges a task: a language model once with each answer that
    it chooses among.
    """
    return max(1, len(task.prompts)) if family.language is not None and task.metric is None else 1
