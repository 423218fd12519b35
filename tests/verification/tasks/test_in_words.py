"""Answers in words: exact match, and the rank correlation of numbers."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from epmq_export.errors import InputError, RecipeError
from epmq_export.installed import registry
from epmq_export.models import reference
from epmq_export.models.samples import Question
from epmq_export.pipeline.job import Job
from epmq_export.recipe.load import load_recipe
from epmq_export.verification.statistics.ranks import rank_correlation
from epmq_export.verification.tasks.bench import Outputs, lines_of, scores_of
from epmq_export.verification.tasks.comparison import Measure
from epmq_export.verification.tasks.in_words import Answers, number
from epmq_export.verification.tasks.language import LanguageBench
from tests.tiny import decoder as tiny_decoder

CPU = torch.device("cpu")


def test_rank_correlations_by_hand() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert rank_correlation([4, 3, 2, 1], [1, 2, 3, 4]) == pytest.approx(-1)
    # Of ranks 1, 2, 3, 4, 5 and 2, 1, 4, 3, 5: 1 - 6 * (1 + 1 + 1 + 1) / (5 * 24).
    assert rank_correlation([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(0.8)
    # Of equals the mean rank, 1.5, 1.5, 3 against 1, 2, 3: Pearson's of these is 1.5 / sqrt(1.5 * 2).
    assert rank_correlation([7, 7, 9], [1, 2, 3]) == pytest.approx(1.5 / 3**0.5)
    assert rank_correlation([5, 5, 5], [1, 2, 3]) == 0.0
    # No more than 1 by a last bit, which the report's schema refuses.
    assert all(rank_correlation([*range(count)], [*range(count)]) <= 1 for count in range(2, 100))


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=2, max_size=30))
def test_only_the_order_counts(pairs: list[tuple[int, int]]) -> None:
    one, other = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    found = rank_correlation(one, other)
    assert -1 <= found <= 1
    assert rank_correlation([a**3 + 5 for a in one], other) == pytest.approx(found, abs=1e-12)
    assert rank_correlation(other, one) == pytest.approx(found, abs=1e-12)
    assert rank_correlation([-a for a in one], other) == pytest.approx(-found, abs=1e-12)


def test_numbers() -> None:
    assert number("4.2") == 4.2 and number(" -3 ") == -3.0
    assert number("four") is number("") is number("nan") is number("inf") is None


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("answers")
    base = tiny_decoder.write(folder / "base", "llama, tied")
    for t in range(2):
        tiny_decoder.write_expert(folder / f"expert{t}", base, "llama, tied", t + 1)
    (folder / "texts.txt").write_text("\n".join(tiny_decoder.LINES), encoding="utf-8")
    (folder / "words.tsv").write_text("good\tit is\nvery bad\tis that\ngood\ta dog\n", encoding="utf-8")
    (folder / "numbers.tsv").write_text("1.5\tit is\n12\tis that\n-3\ta dog\n", encoding="utf-8")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        """
base_model: ./base
merge_method: task_arithmetic
tasks:
  words:
    {expert: ./expert0, prompt: "say {}", calibration: texts.txt, evaluation: words.tsv, metric: exact_match}
  numbers:
    {expert: ./expert1, prompt: "rate {}", calibration: texts.txt, evaluation: numbers.tsv, metric: spearman}
calibration: {samples: 4}
""",
        encoding="utf-8",
    )
    return Job.open(load_recipe(recipe), registry(), CPU)


def answered(trial: Answers, *answers: str) -> Outputs:
    """The outputs of a model that gives these answers, and ends them."""
    tokenizer = tiny_decoder.tokenizer()
    ends = [question.ends[0] for question in trial.questions]
    return np.stack(
        [
            each.row([*tokenizer(text)["input_ids"], end][: each.limit])
            for each, text, end in zip(trial.questions, answers, ends, strict=True)
        ]
    )


def test_an_answer_is_right_word_for_word(project: Job) -> None:
    bench = LanguageBench.build(project.models, project.tasks, CPU)
    words, numbers = bench.trials["words"], bench.trials["numbers"]
    assert isinstance(words, Answers) and isinstance(numbers, Answers)
    tokenizer = tiny_decoder.tokenizer()
    limit = 1 + len(tokenizer(" very bad")["input_ids"])
    assert words.questions == [Question(f"say {text}", limit, (0,)) for text in ("it is", "is that", "a dog")]

    right = answered(words, " good", "very bad", "good\nbad")
    wrong = answered(words, "bad", " very bad", "Good")
    assert words.said(wrong) == ["bad", "very bad", "Good"]
    assert words.lines(right, right).value == 1.0 and words.lines(wrong, wrong).value == pytest.approx(1 / 3)
    assert words.lines(wrong, wrong).as_json() == "010"
    assert words.lines(wrong, wrong).drop(words.lines(right, right)).value == pytest.approx(2 / 3)
    told = bench.compare(project.tasks[0], wrong, right)
    assert told.same_first is not None and told.same_first.value == pytest.approx(1 / 3)
    assert told.distance is None and not told.facts
    assert bench.measure(project.tasks[0]) is Measure.ACCURACY

    ordered = answered(numbers, "2.0", " 9", "-8")
    other = answered(numbers, " so", "9", "1")
    best, worse = numbers.lines(ordered, ordered), numbers.lines(other, other)
    assert best.value == pytest.approx(1) and worse.value == pytest.approx(0.5)
    assert worse.drop(best).value == pytest.approx(0.5) and worse.as_json() == [0.0, 9.0, 1.0]
    told = bench.compare(project.tasks[1], other, ordered)
    assert told.same_first is not None and told.same_first.value == pytest.approx(1 / 3)
    assert told.facts == {"no_number": pytest.approx(1 / 3)}
    assert bench.measure(project.tasks[1]) is Measure.RANKS
    assert bench.opening(1).outputs(lambda asked: np.full((len(asked), 1), -1))["words"].shape == (1, 1)


def test_a_model_answers_for_itself(project: Job) -> None:
    family: Any = project.models.family
    bench = LanguageBench.build(project.models, project.tasks, CPU)
    outputs = bench.outputs(
        partial(reference.outputs, family, project.models.experts[project.tasks[0].expert], device=CPU)
    )
    np.testing.assert_array_equal(outputs["words"], bench.experts["words"])
    assert set(scores_of(lines_of(bench, outputs))) == {"words", "numbers", "average"}


def test_labels_are_answers_too(project: Job, tmp_path: Path) -> None:
    folder = project.recipe.directory
    text = project.recipe.path.read_text(encoding="utf-8").replace(
        "evaluation: words.tsv,", "evaluation: labels.tsv, labels: {bad: ' so bad', good: ' good'},"
    )
    (folder / "labels.tsv").write_text("good\tvifo\n0\tvifo gari\n", encoding="utf-8")
    (recipe := folder / "labels.yaml").write_text(text, encoding="utf-8")
    task = Job.open(load_recipe(recipe), registry(), CPU).tasks[0]
    assert task.expected == [" good", " so bad"] and task.truth is None and task.metric == "exact_match"


def test_answers_that_leave_a_prompt_no_room_are_told_before_the_work(project: Job) -> None:
    text = project.recipe.path.read_text(encoding="utf-8").replace("words.tsv", "long.tsv")
    (project.recipe.directory / "long.tsv").write_text(f"{'cat dog ' * 400}\tit is\n", encoding="utf-8")
    (recipe := project.recipe.path.with_name("long.yaml")).write_text(text, encoding="utf-8")
    with pytest.raises(
        InputError,
        match=r"task words: .*found answers of up to \d+ tokens, expected fewer than the 512 that it takes",
    ):
        Job.open(load_recipe(recipe), registry(), CPU)


def test_what_cannot_be_scored_so_is_refused(project: Job) -> None:
    recipe = project.recipe.path.with_name("other.yaml")
    text = project.recipe.path.read_text(encoding="utf-8")
    for old, new, sentence in (
        (
            "evaluation: numbers.tsv, ",
            "",
            "tasks.numbers.evaluation: found nothing, expected labelled data, since the task has a metric",
        ),
        ("metric: spearman", "metric: pearson", "expected one of exact_match, spearman"),
        (
            "metric: spearman",
            "labels: [a, b], metric: spearman",
            "tasks.numbers.metric: found spearman beside labels",
        ),
        (
            "metric: exact_match",
            'labels: {a: b, c: "d\\ne"}, metric: exact_match',
            "tasks.words.metric: found exact_match beside the label text",
        ),
    ):
        recipe.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(RecipeError, match=sentence.replace(".", "[.]")):
            load_recipe(recipe)
