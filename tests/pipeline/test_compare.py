"""The differences between two runs, line by line where both answer the same lines."""

import math
from typing import Any

import numpy as np
import pytest

from epmq_export.pipeline.compare import compare
from epmq_export.publishing.report import Report, report_of
from epmq_export.verification.statistics.proportions import PairedTable
from tests.publishing.page_reports import PLACE, report

ROW = "gguf in llama.cpp"


def told(answers: dict[str, Any], **more: Any) -> Report:
    """Return the report of a run whose file gives these answers, with scores that are theirs."""
    content = report(tuple(answers)) | more
    content["answers"][ROW] = answers
    means = {
        task: float(np.mean([*map(float, each)] if isinstance(each, str) else each))
        for task, each in answers.items()
    }
    content["scores"][ROW] = means | {"average": float(np.mean([*means.values()]))}
    return report_of(content, PLACE)


def test_the_same_lines_are_compared_line_by_line() -> None:
    one = told({"mood": "1111100000", "topic": "1100"})
    two = told({"mood": "1111110000", "topic": "1100"})
    found = compare(one, two)[ROW]
    drop = PairedTable(10, 1, 0).drop  # of which B has one more right
    assert found["mood"].value == pytest.approx(0.1) == drop.value
    assert (found["mood"].low, found["mood"].high) == drop.interval
    assert found["topic"].value == 0 and found["topic"].low < 0 < found["topic"].high
    assert found["average"].value == pytest.approx(0.05)
    assert all(each.paired for each in found.values())
    back = compare(two, one)[ROW]
    assert back["mood"].value == pytest.approx(-0.1)
    assert back["mood"].low == pytest.approx(-found["mood"].high)


def test_pairs_tell_more_than_two_intervals_of_their_own() -> None:
    lines = "1" * 80 + "0" * 20
    one, two = told({"mood": lines}), told({"mood": "0" + lines[1:]})
    intervals = {**one.intervals, ROW: {"mood": [0.71, 0.87], "average": [0.71, 0.87]}}
    one, two = (each.model_copy(update={"intervals": intervals}) for each in (one, two))
    paired = compare(one, two)[ROW]["mood"]
    apart = compare(one, two.model_copy(update={"evaluated": {}}))[ROW]["mood"]
    assert paired.paired and not apart.paired
    assert apart.value == pytest.approx(paired.value) == pytest.approx(-0.01)
    assert apart.low == pytest.approx(-0.01 - math.hypot(0.79 - 0.71, 0.87 - 0.8))
    assert apart.high == pytest.approx(-0.01 + math.hypot(0.87 - 0.79, 0.8 - 0.71))
    assert apart.low < paired.low and paired.high < apart.high


def test_numbers_are_compared_where_their_mean_is_the_score() -> None:
    one, two = told({"near": [0.9, 0.8, 0.7]}), told({"near": [0.95, 0.85, 0.75]})
    found = compare(one, two)[ROW]["near"]
    assert found.paired and found.value == pytest.approx(0.05)
    assert found.low == pytest.approx(0.05) == found.high  # every line gains the same
    scores = {**two.scores, ROW: {"near": 0.4, "average": 0.4}}  # a rank correlation
    assert not compare(one, two.model_copy(update={"scores": scores}))[ROW]["near"].paired


def test_other_lines_are_not_paired() -> None:
    one = told({"mood": "1100"})
    for other in (
        told({"mood": "1100"}, evaluated={"mood": "1" * 64}),
        told({"mood": "110"}),
        told({"mood": [1.0, 1.0, 0.0, 0.0]}),
    ):
        found = compare(one, other)[ROW]
        assert not found["mood"].paired and not found["average"].paired


def test_what_only_one_of_the_two_has_is_left_out() -> None:
    one, two = told({"mood": "10", "topic": "11"}), told({"mood": "10"})
    found = compare(one, two)
    assert list(found[ROW]) == ["mood"] and list(found) == one.rows
    assert compare(one, report_of(report(()), PLACE)) == {}
