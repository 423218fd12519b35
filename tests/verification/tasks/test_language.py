"""Scores of language models, beside the library's own losses."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from epmq_export.errors import InputError
from epmq_export.installed import registry
from epmq_export.models import reference
from epmq_export.models.samples import Passage, Sample
from epmq_export.pipeline.job import Job
from epmq_export.recipe.load import load_recipe
from epmq_export.verification.tasks import likelihood as passages_room
from epmq_export.verification.tasks.bench import Outputs, lines_of, scores_of
from epmq_export.verification.tasks.comparison import Measure
from epmq_export.verification.tasks.language import LanguageBench
from epmq_export.verification.tasks.likelihood import by_passage, divergence, likelihood, log_softmax
from epmq_export.verification.tasks.multiple_choice import Choice, leaders
from epmq_export.verification.tasks.perplexity import Prediction, perplexity, same_top
from tests.tiny import decoder as tiny_decoder

CPU = torch.device("cpu")
Kind = TypeVar("Kind", Choice, Prediction)


def test_numbers_of_rows() -> None:
    rows = log_softmax(np.log(np.array([[1, 2, 5], [8, 1, 1]], np.float32)))
    np.testing.assert_allclose(np.exp(rows), [[0.125, 0.25, 0.625], [0.8, 0.1, 0.1]], rtol=1e-6)
    assert perplexity(rows, [1, 0]) == pytest.approx((0.25 * 0.8) ** -0.5)
    others = log_softmax(np.log(np.array([[5, 2, 1], [8, 1, 1]], np.float32)))
    assert same_top(rows, others) == 0.5 and same_top(rows, rows) == 1.0
    found = divergence(rows, others)
    assert found[0] == pytest.approx(0.625 * np.log(5) + 0.125 * np.log(1 / 5)) and found[1] == 0.0
    with pytest.raises(InputError, match="expected one shape"):
        divergence(rows, others[:1])
    with pytest.raises(InputError, match="scores that are not finite"):
        log_softmax(np.array([[1, np.nan]], np.float32))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A task with answers, and one of texts to go on with."""
    folder = tmp_path_factory.mktemp("language")
    base = tiny_decoder.write(folder / "base", "llama, tied")
    for t in range(2):
        tiny_decoder.write_expert(folder / f"expert{t}", base, "llama, tied", t + 1, size=0.5)
    (folder / "texts.txt").write_text("\n".join(tiny_decoder.LINES), encoding="utf-8")
    (folder / "mood.tsv").write_text("good\tit is good\nbad\tit is bad\nbad\tso so\n", encoding="utf-8")
    (folder / "recipe.yaml").write_text(
        """
base_model: ./base
merge_method: task_arithmetic
tasks:
  mood:
    expert: ./expert0
    prompt: "{} : is that {good} or bad ?"
    calibration: texts.txt
    labels: {good: " very good !", bad: " bad"}
    evaluation: mood.tsv
  stories:
    expert: ./expert1
    calibration: texts.txt
    evaluation: texts.txt
calibration: {samples: 4}
""",
        encoding="utf-8",
    )
    return Job.open(load_recipe(folder / "recipe.yaml"), registry(), CPU)


def bench_of(project: Job) -> LanguageBench:
    return LanguageBench.build(project.models, project.tasks, CPU)


def trial(bench: LanguageBench, kind: type[Kind], name: str) -> Kind:
    found = bench.trials[name]
    assert isinstance(found, kind)
    return found


@torch.no_grad()
def library_likelihood(directory: Path, context: str, target: str) -> tuple[float, int]:
    """log p of the target by the library's own model, and its number of tokens."""
    made: Any = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = tiny_decoder.tokenizer()
    ids, start = tokenizer(context + target)["input_ids"], max(len(tokenizer(context)["input_ids"]), 1)
    logits = made(torch.tensor([ids])).logits[0].double().log_softmax(1)
    return float(sum(logits[i - 1, ids[i]] for i in range(start, len(ids)))), len(ids) - start


def test_answers_are_judged_by_likelihood_and_texts_by_perplexity(project: Job) -> None:
    bench = bench_of(project)
    base = project.recipe.directory / "base"
    outputs = bench.outputs(
        partial(reference.outputs, project.models.family, project.models.base, device=CPU)
    )
    prompts = [f"{text} : is that {{good}} or bad ?" for text in ("it is good", "it is bad", "so so")]
    expected = [
        [library_likelihood(base, prompt, answer)[0] for answer in (" very good !", " bad")]
        for prompt in prompts
    ]
    np.testing.assert_allclose(outputs["mood"], expected, rtol=1e-4)
    scores = scores_of(lines_of(bench, outputs))
    assert scores["mood"] == pytest.approx(np.mean(np.argmax(expected, 1) == [0, 1, 1]))

    found = [library_likelihood(base, "", text) for text in tiny_decoder.LINES]
    ids = trial(bench, Prediction, "stories").tokens
    assert perplexity(outputs["stories"], ids) == pytest.approx(
        np.exp(-sum(each for each, _ in found) / sum(count for _, count in found)), rel=1e-4
    )
    assert 0 <= scores["stories"] < 1 and scores_of(lines_of(bench, bench.experts))["stories"] == 1.0


def test_a_model_is_compared_with_the_reference(project: Job) -> None:
    bench = bench_of(project)
    expected = bench.outputs(
        partial(reference.outputs, project.models.family, project.models.merged, device=CPU)
    )
    found = bench.outputs(partial(reference.outputs, project.models.family, project.models.base, device=CPU))
    mood, stories = project.tasks
    assert (bench.measure(mood), bench.measure(stories)) == (Measure.ACCURACY, Measure.KL)
    same = bench.compare(stories, expected["stories"], expected["stories"])
    assert same.distance is not None and same.distance.measure is Measure.KL and same.same_first is not None
    assert same.facts["kl_max"] == 0.0 and same.distance.lines.value == 0.0 and same.same_first.value == 1.0
    other = bench.compare(stories, found["stories"], expected["stories"])
    assert other.distance is not None
    told, distances = other.facts, other.distance.lines
    assert told["kl_50"] <= told["kl_90"] <= told["kl_99"] <= told["kl_max"] == distances.values.max()
    assert told["tokens"] == len(found["stories"]) == distances.lengths.sum()
    assert len(distances.lengths) == len(tiny_decoder.LINES)
    assert distances.estimate.interval.low < distances.value < distances.estimate.interval.high
    told = bench.compare(mood, found["mood"], expected["mood"])
    assert told.distance is not None and told.distance.measure is Measure.KL
    first = log_softmax(expected["mood"]).astype(np.float64)
    second = log_softmax(found["mood"]).astype(np.float64)
    assert told.distance.lines.values == pytest.approx((np.exp(first) * (first - second)).sum(1))


def test_the_opening_of_a_bench_compares_the_first_lines(project: Job) -> None:
    bench = bench_of(project)
    run = partial(reference.outputs, project.models.family, project.models.base, device=CPU)
    whole, opening = bench.outputs(run), bench.opening(2)
    outputs = opening.outputs(run)
    assert len(outputs["mood"]) == 2 and 2 < len(outputs["stories"]) < len(whole["stories"])
    for task in project.tasks:
        first = whole[task.name][: len(outputs[task.name])]
        np.testing.assert_allclose(outputs[task.name], first, rtol=1e-4, atol=1e-4)
        compared = opening.compare(task, outputs[task.name], first)
        assert compared.distance is not None and len(compared.distance.lines.lengths) == 2
        assert compared.distance.lines.value < 1e-6


def test_a_runtime_is_given_few_rows_at_a_time(project: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = bench_of(project)
    run = partial(reference.outputs, project.models.family, project.models.base, device=CPU)
    whole = bench.outputs(run)
    given: list[int] = []

    def counted(samples: Sequence[Sample]) -> Outputs:
        found = run(samples)
        given.append(len(found))
        return found

    monkeypatch.setattr(passages_room, "ROWS", 12)
    parts = bench.outputs(counted)
    assert len(given) > 3 and all(count <= 12 for count in given[:3])
    for name, outputs in parts.items():
        np.testing.assert_allclose(outputs, whole[name], rtol=1e-4, atol=1e-4)


def test_other_tokens_in_the_runtime_are_told(project: Job) -> None:
    bench = bench_of(project)
    with pytest.raises(InputError, match="the runtime's tokenizer makes others of the texts"):
        bench.outputs(lambda samples: np.zeros((1, 8), np.float32))


def test_cut_passages_keep_their_answers(project: Job) -> None:
    bench = bench_of(project)
    assert [passage.target for passage in trial(bench, Choice, "mood").passages[:2]] == [
        " very good !",
        " bad",
    ]
    assert trial(bench, Prediction, "stories").passages[0] == Passage("", tiny_decoder.LINES[0])


def test_answers_of_one_token_are_read_off_one_row(project: Job) -> None:
    """That it is the same row is what test_answers_are_judged_by_likelihood says of answers of other
    lengths.
    """
    family: Any = project.models.family
    passages = [
        Passage("it is", " good"),
        Passage("it is", " bad"),
        Passage("it is", " very good"),
        Passage("a cat", " bad"),
        Passage("a cat", " good"),
    ]
    targets = [family.targets(passage) for passage in passages]
    assert [len(ids) for ids in targets] == [1, 1, 2, 1, 1]
    led_by = leaders(family, passages, targets)
    assert led_by == [0, 0, 2, 3, 3]
    run = partial(reference.outputs, family, project.models.base, device=CPU)
    given: list[int] = []

    def counted(samples: Sequence[Sample]) -> Outputs:
        given.append(len(samples))
        return run(samples)

    led = [likelihood(rows, ids) for rows, ids in by_passage(counted, passages, targets, led_by)]
    alone = [likelihood(rows, ids) for rows, ids in by_passage(run, passages, targets, range(5))]
    np.testing.assert_allclose(led, alone, rtol=1e-5)
    assert given == [3]
