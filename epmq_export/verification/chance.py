"""Scores that tell nothing of a file, since the reference has no more than anything would have by chance."""

from collections import Counter

from epmq_export.data.task import Task
from epmq_export.verification.statistics.lines import Lines, Ranked, Right


def by_chance(task: Task, reference: Lines) -> str | None:
    """Return the sentence on a task whose right answers the reference knows no better than one answer to all
    lines would, or whose right numbers it ranks no better than by chance; None for any other task.
    """
    told = "so its score cannot tell what a file loses: look at its data, its prompt and its expert's score"
    if isinstance(reference, Ranked) and reference.value <= 0:
        return f"task {task.name}: the reference's rank correlation is {reference.value:.2f}, {told}"
    if not isinstance(reference, Right):
        return None
    answers = task.expected if task.truth is None else task.truth.tolist()
    if answers is None:  # Its expert's answers are the right ones.
        return None
    usual = Counter(answers).most_common(1)[0][1] / len(answers)
    if reference.value > usual:
        return None
    return (
        f"task {task.name}: the reference is right on {100 * reference.value:.1f} % of the lines, and one "
        f"answer to all of them on up to {100 * usual:.1f} %, {told}"
    )
