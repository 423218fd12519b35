"""The judgement on a file's tasks: is what it loses against the reference within the recipe's margins?

Under the rule `confidence`, the losses of all tasks that have one margin are averaged, and the average is
within it, beyond it or undecided, with 95 % confidence. One task alone is beyond its margin where that is no
luck of having looked at several tasks. Under the rule `point`, each task's loss counts as it was measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from epmq_export.recipe.recipe import RecipeVerify
from epmq_export.verification.statistics.decision import (
    ALPHA,
    ROUNDING,
    Outcome,
    decide,
    p_beyond,
    resolution,
    rounded_up,
    standard_error,
    times_the_lines,
)
from epmq_export.verification.statistics.estimate import Estimate
from epmq_export.verification.statistics.pooled import holm, pooled
from epmq_export.verification.statistics.proportions import Drop, PairedTable
from epmq_export.verification.tasks.comparison import Measure

_KEYS = {
    Measure.ACCURACY: "tasks",
    Measure.RANKS: "tasks",
    Measure.EXPERT: "tasks",
    Measure.COSINE: "agreement",
    Measure.KL: "kl",
}
"""The key of the recipe's `verify` that has the margin of a measure."""


def key_of(measure: Measure) -> str:
    """Return the recipe's key that has the margin of a measure: `verify.tasks`."""
    return f"verify.{_KEYS[measure]}"


def margin_of(measure: Measure, verify: RecipeVerify) -> float:
    """Return the largest loss that the recipe allows: for cosines, their distance from 1."""
    margin: float = getattr(verify, _KEYS[measure])
    return 1 - margin if measure is Measure.COSINE else margin


@dataclass(frozen=True)
class TaskLoss:
    """What a file loses on one task against the reference."""

    task: str
    measure: Measure
    lines: int
    margin: float
    loss: Estimate
    table: PairedTable | None = None
    """How often only one of the two is right. None for a task whose lines are not right or wrong."""

    @property
    def p(self) -> float:
        """Return the one-sided p of the true loss being within the margin."""
        return (
            p_beyond(self.loss, self.margin)
            if self.table is None
            else (Drop([self.table]).p_beyond(self.margin))
        )


@dataclass(frozen=True)
class PooledLoss:
    """The mean of the losses that have one margin. Tasks weigh alike."""

    tasks: Sequence[TaskLoss]

    @property
    def key(self) -> str:
        """Return the recipe's key that has the margin."""
        return key_of(self.tasks[0].measure)

    @property
    def measure(self) -> str:
        """Return what is lost, in words."""
        measures = list(dict.fromkeys(task.measure for task in self.tasks))
        return measures[0].value if len(measures) == 1 else "score"

    @property
    def margin(self) -> float:
        """Return the largest loss that the recipe allows."""
        return self.tasks[0].margin

    @property
    def lines(self) -> int:
        """Return the number of lines of all tasks together."""
        return sum(task.lines for task in self.tasks)

    @cached_property
    def loss(self) -> Estimate:
        """Return the mean loss."""
        drop = self._drop
        return pooled([task.loss for task in self.tasks]) if drop is None else drop.estimate

    @property
    def resolution(self) -> float:
        """Return the distance between a loss and the margin that so many lines can tell."""
        return resolution(self._error)

    @property
    def enough(self) -> int | None:
        """Return how many lines would decide: of a drop where there is truly none, of a distance where it is
        truly as measured. None where the measured distance is the margin.
        """
        expected = 0.0 if self.key == "verify.tasks" else self.loss.value
        distance = abs(self.margin - expected)
        return rounded_up(self.lines * times_the_lines(self._error, distance)) if distance > 0 else None

    @property
    def _drop(self) -> Drop | None:
        """Return the mean of the drops, or None where a task's lines are not right or wrong."""
        tables = [task.table for task in self.tasks if task.table is not None]
        return Drop(tables) if len(tables) == len(self.tasks) else None

    @property
    def _error(self) -> float:
        """Return the standard error of the mean loss: of drops, where they are the margin."""
        drop = self._drop
        return standard_error(self.loss) if drop is None else drop.standard_error(self.margin)


@dataclass(frozen=True)
class Judgement:
    """The judgement on the tasks of one file in one runtime."""

    losses: Sequence[TaskLoss]
    verify: RecipeVerify

    @cached_property
    def pooled(self) -> Sequence[PooledLoss]:
        """Return the mean of the losses of each margin."""
        groups: dict[str, list[TaskLoss]] = {}
        for loss in self.losses:
            groups.setdefault(key_of(loss.measure), []).append(loss)
        return [PooledLoss(losses) for losses in groups.values()]

    @cached_property
    def corrected(self) -> Sequence[float]:
        """Return for each task the p of its loss being within its margin, by Holm's correction."""
        return holm([loss.p for loss in self.losses])

    @property
    def worst(self) -> int:
        """Return the place of the task that is the most surely beyond its margin or, by the rule of points,
        the farthest beyond it.
        """
        surely = self.corrected if self.verify.rule == "confidence" else [0.0] * len(self.losses)
        return min(
            range(len(self.losses)),
            key=lambda i: (surely[i], self.losses[i].margin - self.losses[i].loss.value),
        )

    def of_task(self, place: int) -> Outcome:
        """Return the outcome of one task."""
        loss = self.losses[place]
        if self.verify.rule == "point":
            within = loss.loss.value <= loss.margin + ROUNDING
            return Outcome.PASS if within else Outcome.FAIL
        if self.corrected[place] <= ALPHA:
            return Outcome.FAIL
        return Outcome.PASS if decide(loss.loss, loss.margin) is Outcome.PASS else Outcome.UNDECIDED

    def of_pooled(self, group: PooledLoss) -> Outcome:
        """Return the outcome of the tasks of one margin together."""
        if self.verify.rule == "confidence":
            return decide(group.loss, group.margin)
        beyond = any(loss.loss.value > loss.margin + ROUNDING for loss in group.tasks)
        return Outcome.FAIL if beyond else Outcome.PASS

    @property
    def outcome(self) -> Outcome:
        """Return the outcome of all tasks together: that of the worst of the means and, where the recipe says
        so, of the worst task.
        """
        found = {self.of_pooled(group) for group in self.pooled}
        if self.verify.each == "fail" and self.beyond:
            found.add(Outcome.FAIL)
        return next(
            outcome for outcome in (Outcome.FAIL, Outcome.UNDECIDED, Outcome.PASS) if outcome in found
        )

    @property
    def beyond(self) -> Sequence[int]:
        """Return the places of the tasks whose losses are beyond their margins."""
        return [i for i in range(len(self.losses)) if self.of_task(i) is Outcome.FAIL]
