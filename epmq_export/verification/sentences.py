"""What a judgement on tasks says, in sentences that a person can act on."""

from epmq_export.verification.judgement import Judgement, PooledLoss, TaskLoss
from epmq_export.verification.statistics.decision import Outcome
from epmq_export.verification.tasks.comparison import Measure

_DISTANCES = {Measure.COSINE.value: "", Measure.KL.value: " nats"}
"""The unit of each measure that is a distance. All others are drops, in points."""


def amount(measure: str, value: float) -> str:
    """Return a loss in its unit: `2.0 points`, `0.0213`, `0.05 nats`."""
    unit = _DISTANCES.get(measure)
    return f"{100 * value:.1f} points" if unit is None else f"{value:.3g}{unit}"


def faults(judgement: Judgement) -> list[str]:
    """Return a sentence for each loss that the recipe does not allow."""
    if judgement.verify.rule == "point":
        return [_measured(judgement.losses[i]) for i in judgement.beyond]
    found = [_beyond(group) for group in judgement.pooled if judgement.of_pooled(group) is Outcome.FAIL]
    found += _tasks_beyond(judgement) if judgement.verify.each == "fail" else []
    return found + (_undecided(judgement) if judgement.verify.undecided == "fail" else [])


def doubts(judgement: Judgement) -> list[str]:
    """Return a sentence for each loss that is a warning: of one task, or of too few lines."""
    if judgement.verify.rule == "point":
        return []
    found = _tasks_beyond(judgement) if judgement.verify.each == "warn" else []
    return found + (_undecided(judgement) if judgement.verify.undecided == "warn" else [])


def _measured(task: TaskLoss) -> str:
    """Return the sentence of a loss that is beyond its margin as measured."""
    return f"task {task.task}: {_loss(task.measure.value, task.loss.value)}, {_margin(task)}"


def _beyond(group: PooledLoss) -> str:
    measure, loss = group.measure, group.loss
    surely = f"with 95 % confidence by more than {amount(measure, loss.bounds.low)}"
    if measure in _DISTANCES:
        surely = f"with 95 % confidence more than {amount(measure, loss.bounds.low)}"
    return f"{_where(group)}{_loss(measure, loss.value)}, {surely}, {_margin(group.tasks[0])}"


def _tasks_beyond(judgement: Judgement) -> list[str]:
    """Return a sentence for each task that is surely beyond its margin, where there are several: of one task
    alone the mean says it.
    """
    count = len(judgement.losses)
    return [
        f"task {task.task}: {_loss(task.measure.value, task.loss.value)}, {_margin(task)}, which is no luck "
        f"of having looked at {count} tasks (p {judgement.corrected[i]:.2g} by Holm's correction)"
        for i, task in enumerate(judgement.losses)
        if i in judgement.beyond and count > 1
    ]


def _undecided(judgement: Judgement) -> list[str]:
    return [_too_few(group) for group in judgement.pooled if judgement.of_pooled(group) is Outcome.UNDECIDED]


def _too_few(group: PooledLoss) -> str:
    """Return the sentence of lines that cannot say, with how many could."""
    measure, loss, drop = group.measure, group.loss, group.measure not in _DISTANCES
    may = f"and with 95 % confidence {'by ' if drop else ''}less than {amount(measure, loss.bounds.high)}"
    near = amount(measure, group.margin if drop else abs(group.margin - loss.value))
    told = f"{amount(measure, group.resolution)} from {'none' if drop else 'the margin'}"
    can = f"{group.lines:,} lines can tell {told}"
    enough = "" if group.enough is None else f": give about {group.enough:,}"
    return (
        f"{_where(group)}{_loss(measure, loss.value)}, {may}, {_margin(group.tasks[0])}: undecided; {can}, "
        f"not {near}{enough}"
    )


def _where(group: PooledLoss) -> str:
    """Return the beginning of a sentence on a mean."""
    count = len(group.tasks)
    return f"task {group.tasks[0].task}: " if count == 1 else f"on average over {count} tasks, "


def _loss(measure: str, value: float) -> str:
    if measure in _DISTANCES:
        return f"the {measure} from the reference is {amount(measure, value)}"
    return f"{measure} is {amount(measure, abs(value))} {'below' if value >= 0 else 'above'} the reference's"


def _margin(task: TaskLoss) -> str:
    return f"margin {amount(task.measure.value, task.margin)}"
