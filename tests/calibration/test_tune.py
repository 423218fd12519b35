"""The search for alpha, rho and lambda."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from epmq_export.calibration import tune as tune_module
from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import BlockResult, Calibrator, TaskData
from epmq_export.calibration.method import PRESETS
from epmq_export.calibration.tune import tune
from epmq_export.errors import CalibrationError
from epmq_export.models.family import Block
from tests.tiny.calibrated_bert import Tiny, tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("tiny") / "model")


def test_it_finds_the_way_back_from_bad_numbers(model: Tiny) -> None:
    """An anchor that undoes what the one expert has learned, and weighs too much: its held-out texts say
    so.
    """
    tasks = model.tasks(model.experts[:1], count=24)
    calibrator = model.calibrator("anchored", tasks)
    calibrator = replace(
        calibrator,
        merged=model.experts[0],
        method=replace(calibrator.method, alpha=0.5, rho=4.0, damping=0.4),
    )
    found = tune(calibrator)
    first = found.trials[0]
    best = min(found.trials[:-1], key=lambda trial: trial.divergence)
    assert (first.rho, first.damping, first.alpha, first.divergence) == (4.0, 0.4, 0.5, 1.0)
    assert best.divergence < 0.7
    assert found.method.rho < 3.0
    assert (found.method.alpha, found.method.rho, found.method.damping) == (
        best.alpha,
        best.rho,
        best.damping,
    )
    assert (
        replace(found.method, alpha=0.5, rho=4.0, damping=0.4) == calibrator.method
    )  # nothing else has changed
    assert 0 < found.method.alpha < 1


def test_a_merge_that_is_nearer_than_every_solve_is_reproduced(model: Tiny) -> None:
    """The merge is the one expert itself, and the anchor lies far beyond it."""
    calibrator = model.calibrator("anchored", model.tasks(model.experts[:1], count=8))
    method = replace(calibrator.method, alpha=0.5, rho=9.0, damping=4.0)
    found = tune(replace(calibrator, merged=model.experts[0], method=method))
    *others, last = found.trials
    assert {trial.target for trial in others} == {"experts"}
    assert last.target == "merged" and last.divergence < 1e-3
    assert found.method == replace(PRESETS["gptq"], rounding="descent")


def test_the_same_again_gives_the_same_trials(model: Tiny) -> None:
    calibrator = model.calibrator("anchored", model.tasks(count=8))
    assert tune(calibrator) == tune(calibrator)


def test_held_out_texts_are_not_calibrated_on(model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()

    def noting(calibrator: Calibrator) -> Iterator[tuple[Block, BlockResult]]:
        seen.update(text for task in calibrator.tasks for text in task.samples)
        return calibrate_blocks(calibrator)

    monkeypatch.setattr(tune_module, "calibrate_blocks", noting)
    calibrator = model.calibrator("epmq", model.tasks(count=8))
    tune(calibrator)
    everything = {text for task in calibrator.tasks for text in task.samples}
    held = {text for task in calibrator.tasks for text in task.samples[3::4]}
    assert seen == everything - held


def test_a_number_that_is_0_stays(model: Tiny) -> None:
    """alpha 0 never runs an expert: a search does not begin to."""
    found = tune(model.calibrator("epmq", model.tasks(count=8)))
    assert {trial.alpha for trial in found.trials} == {0.0}


def test_too_few_texts_to_hold_any_out_is_an_error(model: Tiny) -> None:
    few = [TaskData(task.name, task.expert, task.samples[:3]) for task in model.tasks()]
    with pytest.raises(
        CalibrationError,
        match=r"task task0: tune holds out one sample in 4 and found 3; raise calibration\.samples",
    ):
        tune(model.calibrator("anchored", few))
