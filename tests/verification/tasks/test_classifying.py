"""The scores of tasks that have a classifier each."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from epmq_export.data.task import Task
from epmq_export.errors import InputError
from epmq_export.models.classifiers import Classifier, columns_of, is_scores, output_names
from epmq_export.models.heads import Columns
from epmq_export.models.samples import Sample
from epmq_export.verification.tasks.bench import Outputs
from epmq_export.verification.tasks.classifying import ClassifierBench
from epmq_export.verification.tasks.comparison import Measure

HEADS = (
    Classifier("mood", ("bad", "good")),
    Classifier("grade", ("grade",)),
    Classifier("topic", ("a", "b", "c")),
)
# The scores of two texts of each task, by all heads.
SCORES = np.array(
    [
        [0, 1, 9, 9, 9, 9],
        [2, 1, 9, 9, 9, 9],
        [9, 9, 0.5, 9, 9, 9],
        [9, 9, -1.5, 9, 9, 9],
        [9, 9, 9, 1, 2, 3],
        [9, 9, 9, 3, 2, 1],
    ],
    np.float32,
)


def task(name: str, truth: Sequence[int] | None = None, expected: Sequence[str] | None = None) -> Task:
    return Task(
        name=name,
        expert="./expert",
        calibration=[],
        evaluation=["one", "two"],
        truth=None if truth is None else torch.tensor(truth),
        labels=[],
        prompts=[],
        expected=expected,
    )


def bench(*tasks: Task) -> ClassifierBench:
    columns = columns_of(HEADS)
    places = {"mood": 0, "grade": 2, "topic": 4}
    experts = {each.name: SCORES[places[each.name] :][:2, columns[each.name]] for each in tasks}
    samples: dict[str, list[Sample]] = {each.name: [*each.evaluation] for each in tasks}
    return ClassifierBench(tasks=tasks, samples=samples, columns=columns, experts=experts)


def test_each_task_has_its_own_columns_in_their_order() -> None:
    assert columns_of(HEADS) == {"mood": slice(0, 2), "grade": slice(2, 3), "topic": slice(3, 6)}
    tasks = [task("mood", [1, 1]), task("grade", expected=["1", "2"]), task("topic", [2, 0])]
    given: list[Sequence[Sample]] = []

    def run(samples: Sequence[Sample]) -> Outputs:
        given.append(samples)
        return SCORES

    found = (judged := bench(*tasks)).outputs(run)
    assert given == [["one", "two"] * 3]
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "mood": [[0, 1], [2, 1]],
        "grade": [[0.5], [-1.5]],
        "topic": [[1, 2, 3], [3, 2, 1]],
    }
    assert [judged.lines(each, found[each.name]).as_json() for each in tasks] == ["10", [0.5, -1.5], "11"]
    assert [judged.measure(each) for each in tasks] == [Measure.ACCURACY, Measure.RANKS, Measure.ACCURACY]
    assert judged.lines(tasks[1], found["grade"]).value == pytest.approx(-1)


def test_without_labels_the_expert_is_right() -> None:
    judged = bench(task("mood"), task("grade"))
    mood, grade = judged.tasks
    assert judged.lines(mood, np.array([[0, 9], [0, 9]], np.float32)).as_json() == "10"
    assert judged.lines(grade, np.array([[3], [2]], np.float32)).value == pytest.approx(1)
    assert judged.measure(mood) is judged.measure(grade) is Measure.EXPERT


def test_scores_are_compared_as_distributions() -> None:
    judged = bench(task("mood", [0, 0]), task("grade"))
    mood, grade = judged.tasks
    same = judged.compare(mood, SCORES[:2, :2] + 1, SCORES[:2, :2])  # what moves all scores changes nothing
    assert same.distance is not None and same.distance.measure is Measure.KL
    assert same.distance.lines.value == pytest.approx(0, abs=1e-12)
    assert same.same_first is not None and same.same_first.value == 1
    other = judged.compare(mood, np.array([[1, 0], [2, 1]], np.float32), SCORES[:2, :2])
    first = 1 / (1 + np.exp(-1))
    assert other.distance is not None
    assert other.distance.lines.values[0] == pytest.approx(
        (2 * first - 1) * 1
    )  # KL of (p, 1 - p) and its turn
    assert other.same_first is not None and other.same_first.value == 0.5
    number = judged.compare(grade, np.array([[0.5], [0]], np.float32), np.array([[0.5], [-1.5]], np.float32))
    assert (
        number.distance is not None and number.distance.lines.values[0] == 0 < number.distance.lines.values[1]
    )
    assert number.same_first is None and number.neighbours is None


def test_scores_that_are_not_finite_are_refused() -> None:
    judged = bench(task("mood", [0, 0]))
    with pytest.raises(InputError, match="an output is not finite: row 1"):
        judged.lines(judged.tasks[0], np.array([[0, 1], [np.nan, 1]], np.float32))


def test_a_number_is_read_as_a_chance() -> None:
    """A softmax of the two scores is the sigmoid of the number, which differs where the number does."""
    reading = Columns(slice(2, 3)).logits(torch.tensor([[0.0, 0, 2], [0, 0, -2]]))
    torch.testing.assert_close(torch.softmax(reading, 1)[:, 1], torch.sigmoid(torch.tensor([2.0, -2])))
    assert Columns(slice(0, 2)).logits(torch.ones(4, 3)).shape == (4, 2)


def test_outputs_are_named_by_their_tasks() -> None:
    assert output_names(HEADS) == ["logits_mood", "logits_grade", "logits_topic"]
    assert output_names(HEADS[:1]) == ["logits"]
    assert all(map(is_scores, ("logits", "logits_x"))) and not is_scores("logits.x")
