"""The check of tasks: the file itself, as users run it, is as accurate as the reference.

Beside the losses it tells how far single outputs are from the reference's, and how far they are where the
runtime computes exactly what the file holds (the floor): what a runtime adds by its own arithmetic is no
fault of the file.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from epmq_export.data.task import Task
from epmq_export.errors import InputError
from epmq_export.models.samples import Sample
from epmq_export.recipe.recipe import RecipeVerify
from epmq_export.verification.chance import by_chance
from epmq_export.verification.checks import Check
from epmq_export.verification.judge import Judge
from epmq_export.verification.judgement import Judgement, PooledLoss, TaskLoss, key_of, margin_of
from epmq_export.verification.sentences import doubts, faults
from epmq_export.verification.statistics.lines import Lines, Right, mean_drop
from epmq_export.verification.tasks.bench import Outputs, lines_of, scores_of
from epmq_export.verification.tasks.comparison import Comparison, Distance, Measure

FLOOR_LINES = 100
"""The most lines of each task that the floor is measured on: outputs are compared, which needs no more."""

MLPERF = 0.99
"""The share of the reference's score that MLPerf Inference asks of a quantised model."""

Run = Callable[[Sequence[Sample]], Outputs]


def check_tasks(
    path: Path, judge: Judge, run: Run, exactly: Run | None, verify: RecipeVerify
) -> tuple[Check, Mapping[str, Lines]]:
    """Compare the file, at its runtime's default settings (`run`), with the reference. `exactly` runs it
    without low-precision kernels, for the floor; None where that is known to be wrong.

    Return the check and what the file makes of each line, by task. Nothing where it does not run.
    """
    bench = judge.bench
    try:
        outputs = bench.outputs(run)
        lines = lines_of(bench, outputs)
    except InputError as error:
        return Check("tasks", {"outcome": None, "passed": False, "rule": verify.rule}, [str(error)]), {}
    floor: dict[str, Any] = {}
    doubt: list[str] = []
    try:
        floor = {} if exactly is None else _floor(judge, exactly)
    except InputError as error:
        doubt = [f"the runtime's own floor was not measured: {error}"]
    expected = judge.rows["reference"]
    losses = []
    told: dict[str, dict[str, Any]] = {}
    for task in bench.tasks:
        name = task.name
        compared = bench.compare(task, outputs[name], judge.reference[name])
        losses.append(_loss(task, bench.measure(task), compared, (lines[name], expected[name]), verify))
        told[name] = {
            "table": _table(lines[name], expected[name]),
            **_distribution(compared),
            "floor": floor.get(name),
            "facts": dict(compared.facts),
        }
    judgement = Judgement(losses, verify)
    broken = [f"{path}: {sentence}" for sentence in faults(judgement)]
    chance = [by_chance(task, expected[task.name]) for task in bench.tasks]
    warnings = [sentence for sentence in chance if sentence is not None]
    warnings += [f"{path}: {sentence}" for sentence in [*doubts(judgement), *doubt]]
    facts = {
        **_facts(judgement),
        "passed": not broken,
        "ratio": _ratio(lines, expected),
        "by_task": {loss.task: _of_task(judgement, i) | told[loss.task] for i, loss in enumerate(losses)},
    }
    return Check("tasks", facts, broken, warnings), lines


def _loss(
    task: Task, measure: Measure, compared: Comparison, lines: tuple[Lines, Lines], verify: RecipeVerify
) -> TaskLoss:
    """Return what the file loses on a task. `lines` are the file's and the reference's."""
    ours, theirs = lines
    distance = compared.distance if measure in (Measure.COSINE, Measure.KL) else None
    return TaskLoss(
        task=task.name,
        measure=measure,
        lines=len(task.evaluation),
        margin=margin_of(measure, verify),
        loss=ours.drop(theirs) if distance is None else distance.lines.estimate,
        table=ours.table(theirs) if isinstance(ours, Right) and isinstance(theirs, Right) else None,
    )


def _floor(judge: Judge, exactly: Run) -> dict[str, Any]:
    """Return how far outputs that are computed exactly are from the reference's, by task."""
    opening = judge.bench.opening(FLOOR_LINES)
    found = opening.outputs(exactly)
    told = {}
    for task in opening.tasks:
        outputs = found[task.name]
        compared = opening.compare(task, outputs, judge.reference[task.name][: len(outputs)])
        lines = min(FLOOR_LINES, len(task.evaluation))
        told[task.name] = {"lines": lines, **_distribution(compared)}
    return told


def _distribution(compared: Comparison) -> dict[str, Any]:
    """Return how far single outputs are from the reference's, for the report."""

    def told(lines: Lines | None) -> dict[str, float] | None:
        return None if lines is None else lines.estimate.as_dict()

    return {
        "distance": None if compared.distance is None else _distance(compared.distance),
        "same_first": told(compared.same_first),
        "neighbours": told(compared.neighbours),
    }


def _distance(distance: Distance) -> dict[str, Any]:
    """Return the mean and the 99th percentile of distances, for the report."""
    mean, high = distance.lines.estimate, distance.lines.percentile(99)
    return {"measure": distance.measure.value, "mean": mean.as_dict(), "p99": high.as_dict()}


def _table(ours: Lines, theirs: Lines) -> dict[str, Any] | None:
    """Return how often only one of the two is right, and on which lines, counted from 0. None for lines that
    are not right or wrong.
    """
    if not (isinstance(ours, Right) and isinstance(theirs, Right)):
        return None
    table = ours.table(theirs)
    return {
        "only_reference": table.only_reference,
        "only_file": table.only_file,
        "flips": table.flips,
        "mcnemar_p": table.mcnemar,
        "lines_only_reference": np.flatnonzero(theirs.right & ~ours.right).tolist(),
        "lines_only_file": np.flatnonzero(ours.right & ~theirs.right).tolist(),
    }


def _facts(judgement: Judgement) -> dict[str, Any]:
    """Return what is said of all tasks together, for the report."""
    worst = judgement.worst
    return {
        "rule": judgement.verify.rule,
        "outcome": judgement.outcome.value,
        "pooled": [_pooled(judgement, group) for group in judgement.pooled],
        "worst": {
            "task": judgement.losses[worst].task,
            "p": judgement.losses[worst].p,
            "p_holm": judgement.corrected[worst],
            "outcome": judgement.of_task(worst).value,
        },
    }


def _pooled(judgement: Judgement, group: PooledLoss) -> dict[str, Any]:
    return {
        "key": group.key,
        "measure": group.measure,
        "tasks": [task.task for task in group.tasks],
        "lines": group.lines,
        "margin": group.margin,
        "loss": group.loss.as_dict(),
        "outcome": judgement.of_pooled(group).value,
        "resolution": group.resolution,
        "enough_lines": group.enough,
    }


def _of_task(judgement: Judgement, place: int) -> dict[str, Any]:
    loss = judgement.losses[place]
    return {
        "key": key_of(loss.measure),
        "measure": loss.measure.value,
        "lines": loss.lines,
        "margin": loss.margin,
        "loss": loss.loss.as_dict(),
        "p": loss.p,
        "p_holm": judgement.corrected[place],
        "outcome": judgement.of_task(place).value,
    }


def _ratio(lines: Mapping[str, Lines], expected: Mapping[str, Lines]) -> dict[str, Any] | None:
    """Return the file's average score as a share of the reference's, with the interval of the drop, beside
    what MLPerf asks. None where the reference's is not above 0.
    """
    reference = scores_of(expected)["average"]
    if reference <= 0:
        return None
    drop = mean_drop(lines, expected)
    low, value, high = (1 - part / reference for part in (drop.interval.high, drop.value, drop.interval.low))
    return {"value": value, "low": low, "high": high, "gate": MLPERF, "reached": value >= MLPERF}
