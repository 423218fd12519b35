"""What a task is judged on, as one number."""

from dataclasses import replace

import torch

from epmq_export.data.task import Task

TASK = Task(
    name="mood",
    expert="/expert",
    calibration=["x"],
    evaluation=["it is good", "it is bad"],
    truth=torch.tensor([0, 1]),
    labels=["good", "bad"],
    prompts=[["good"], ["bad"]],
)


def test_tasks_share_it_where_their_lines_and_answers_are_the_same() -> None:
    assert len(TASK.evaluated) == 64
    for same in (
        replace(TASK, name="another", calibration=["y"], expert="/other"),
        replace(TASK, labels=["bad", "good"], truth=torch.tensor([1, 0])),
    ):
        assert same.evaluated == TASK.evaluated
    unlabelled = replace(TASK, truth=None, labels=[], prompts=[])
    for other in (
        replace(TASK, evaluation=["it is bad", "it is good"]),
        replace(TASK, truth=torch.tensor([0, 0])),
        replace(TASK, evaluation=["it is good", "it is bad "]),
        unlabelled,
        replace(unlabelled, expected=["good", "bad "]),
    ):
        assert other.evaluated != TASK.evaluated
    assert replace(unlabelled, expected=["good", "bad"]).evaluated == TASK.evaluated
