"""The memory of a calibration, which grows neither with experts nor with depth."""

import gc
from dataclasses import replace

import pytest

from epmq_export.calibration.calibrate import calibrate_blocks
from tests.tiny.calibrated_bert import Tiny, calibrated, tiny
from tests.tiny.in_memory import LiveBytes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.mark.parametrize("preset", ["gptq", "featcal"])
def test_memory_does_not_grow_with_the_number_of_experts(model: Tiny, preset: str) -> None:
    """Activations are on disk here; texts and token ids are the tasks' own."""

    def peak(count: int) -> int:
        gc.collect()
        with LiveBytes() as gauge:
            calibrated(
                model.calibrator(preset, model.tasks([model.experts[0]] * count, 8), activation_bytes=0)
            )
        return int(gauge.peak)

    few, many = peak(2), peak(4)
    assert many < few + 64 * 64 * 8  # the smallest matrix of one task's statistics; token ids are less


def test_memory_does_not_grow_with_depth(model: Tiny) -> None:
    class Shallow:
        def __init__(self, blocks: int) -> None:
            self.blocks = model.family.blocks[:blocks]

        def __getattr__(self, name: str) -> object:
            return getattr(model.family, name)

    def peak(blocks: int) -> int:
        gc.collect()
        calibrator = replace(
            model.calibrator("featcal", model.tasks(model.experts[:1], 8), activation_bytes=0),
            family=Shallow(blocks),
        )  # type: ignore[arg-type]
        with LiveBytes() as gauge:
            for _ in calibrate_blocks(calibrator):
                pass
        return int(gauge.peak)

    assert peak(3) <= peak(2) * 1.02
