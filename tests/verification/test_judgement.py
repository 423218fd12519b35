"""The judgement on tasks: what passes, fails or stays undecided, by either rule, and the sentences for it."""

import pytest

from epmq_export.recipe.recipe import RecipeVerify
from epmq_export.verification.judgement import Judgement, TaskLoss, margin_of
from epmq_export.verification.sentences import doubts, faults
from epmq_export.verification.statistics.estimate import Z_BOUND, Z_INTERVAL, Estimate, Interval
from epmq_export.verification.statistics.proportions import PairedTable
from epmq_export.verification.tasks.comparison import Measure


def labelled(name: str, lines: int, only_reference: int, only_file: int, margin: float = 0.02) -> TaskLoss:
    table = PairedTable(lines, only_reference, only_file)
    return TaskLoss(name, Measure.ACCURACY, lines, margin, table.drop, table)


def measured(name: str, measure: Measure, value: float, error: float, margin: float) -> TaskLoss:
    ends = (Interval(value - z * error, value + z * error) for z in (Z_INTERVAL, Z_BOUND))
    return TaskLoss(name, measure, 50, margin, Estimate(value, *ends))


def judged(*losses: TaskLoss, **verify: str) -> Judgement:
    return Judgement(losses, RecipeVerify.model_validate(verify))


def test_margins() -> None:
    verify = RecipeVerify(tasks=0.03, agreement=0.97, kl=0.1)
    found = [margin_of(measure, verify) for measure in Measure]
    assert found == pytest.approx([0.03, 0.03, 0.03, 0.03, 0.1])


def test_enough_lines_pass() -> None:
    found = judged(labelled("a", 400, 3, 3), labelled("b", 400, 2, 4))
    assert found.outcome == "pass" and not faults(found) and not doubts(found)


def test_a_loss_that_is_no_luck_fails() -> None:
    found = judged(labelled("a", 400, 40, 2), labelled("b", 400, 38, 4))
    assert found.outcome == "fail"
    sentence, warning, _ = [*faults(found), *doubts(found)]
    assert sentence.startswith("on average over 2 tasks, accuracy is 9.0 points below the reference's, with ")
    assert sentence.endswith("points, margin 2.0 points")
    assert warning.startswith(
        "task a: accuracy is 9.5 points below the reference's, margin 2.0 points, which "
    )


def test_few_lines_are_undecided_and_more_are_asked_for() -> None:
    found = judged(labelled("a", 60, 1, 1))
    assert found.outcome == "undecided" and not faults(found)
    (group,) = found.pooled
    assert group.enough is not None and 300 < group.enough < 1000
    (sentence,) = doubts(found)
    assert sentence == (
        "task a: accuracy is 0.0 points below the reference's, and with 95 % confidence by less than "
        f"{100 * group.loss.bounds.high:.1f} points, margin 2.0 points: undecided; 60 lines can tell "
        f"{100 * group.resolution:.1f} points from none, not 2.0 points: give about {group.enough}"
    )
    more = judged(labelled("a", group.enough, group.enough // 60, group.enough // 60))
    assert more.outcome == "pass"
    failing = judged(labelled("a", 60, 1, 1), undecided="fail")
    assert faults(failing) == [sentence] and not doubts(failing) and failing.outcome == "undecided"


def test_one_task_among_many() -> None:
    """The mean of ten tasks is within the margin, and one of them is surely beyond it."""
    losses = [labelled("bad", 400, 60, 2), *(labelled(str(i), 400, 1, 1) for i in range(9))]
    found = judged(*losses)
    assert found.outcome == "pass" and found.losses[found.worst].task == "bad" and not faults(found)
    (sentence,) = doubts(found)
    assert "no luck of having looked at 10 tasks" in sentence
    strict = judged(*losses, each="fail")
    assert strict.outcome == "fail" and faults(strict) == [sentence] and not doubts(strict)


def test_holms_correction_spares_the_luck_of_many() -> None:
    """p is about 0.03 for each of 20 tasks: alone it is beyond, among 20 it is not."""
    alone = labelled("a", 100, 8, 1)
    assert 0.02 < alone.p < 0.05
    assert judged(alone).of_task(0) == "fail"
    assert judged(*[alone] * 20).of_task(0) == "undecided"


def test_tasks_with_other_margins_are_pooled_apart_and_the_worst_counts() -> None:
    near = measured("near", Measure.COSINE, 0.01, 0.001, 0.02)
    far = measured("far", Measure.KL, 0.2, 0.01, 0.05)
    good = labelled("good", 400, 1, 1)
    found = judged(near, good, far)
    assert [group.key for group in found.pooled] == ["verify.agreement", "verify.tasks", "verify.kl"]
    assert [found.of_pooled(group) for group in found.pooled] == ["pass", "pass", "fail"]
    assert found.outcome == "fail"
    assert faults(found) == [
        "task far: the KL divergence from the reference is 0.2 nats, with 95 % confidence more than "
        "0.184 nats, margin 0.05 nats"
    ]
    unsure = judged(measured("near", Measure.COSINE, 0.019, 0.001, 0.02))
    (sentence,) = doubts(unsure)
    assert "undecided; 50 lines can tell 0.00249 from the margin, not 0.001: give about 310" in sentence
    assert judged(measured("on", Measure.COSINE, 0.02, 0.001, 0.02)).pooled[0].enough is None


def test_accuracy_and_rank_correlation_share_a_margin() -> None:
    ranks = measured("ranks", Measure.RANKS, 0.03, 0.001, 0.02)
    (group,) = judged(ranks, labelled("a", 4000, 4, 4)).pooled
    assert group.measure == "score" and group.loss.value == pytest.approx(0.015)
    assert group.lines == 4050 and judged(ranks).pooled[0].measure == "rank correlation"


def test_the_rule_of_points_takes_each_task_as_measured() -> None:
    found = judged(labelled("a", 100, 3, 0), labelled("b", 100, 2, 0), labelled("c", 100, 0, 9), rule="point")
    assert found.outcome == "fail" and not doubts(found)
    assert faults(found) == ["task a: accuracy is 3.0 points below the reference's, margin 2.0 points"]
    assert [found.of_task(i) for i in range(3)] == ["fail", "pass", "pass"]
    assert found.worst == 0
    distance = measured("d", Measure.COSINE, 0.019, 0.1, 0.02)
    assert judged(distance, rule="point").outcome == "pass"
