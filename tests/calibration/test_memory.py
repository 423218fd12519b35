"""The memory of a calibration, which grows neither with experts nor with depth."""

import gc
from dataclasses import replace
from pathlib import Path

import pytest

from epmq_export.calibration import calibrate
from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.resume import FinishedBlocks
from epmq_export.models.family import Block, Family
from epmq_export.tensors import packed_writer
from tests.tiny.calibrated_bert import Tiny, calibrated, tiny
from tests.tiny.in_memory import LiveBytes
from tests.tiny.packed_index import an_index


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


class Again:
    """A block under another name."""

    def __init__(self, block: Block, number: int) -> None:
        self._block, self.name = block, f"{block.name}.{number}"

    def __getattr__(self, name: str) -> object:
        return getattr(self._block, name)


class Repeated:
    """A family whose last block stands several times behind the first one, under other names."""

    def __init__(self, family: Family, times: int) -> None:
        first, last = family.blocks[0], family.blocks[-1]
        self._family = family
        self.blocks = [first, *(Again(last, number) for number in range(times))]

    def __getattr__(self, name: str) -> object:
        return getattr(self._family, name)


def test_memory_does_not_grow_with_depth(model: Tiny, tmp_path: Path) -> None:
    """What is finished is on disk, and is read back for the packed checkpoint a part at a time."""

    def peak(times: int) -> int:
        gc.collect()
        calibrator = replace(
            model.calibrator("featcal", model.tasks(model.experts[:1], 8), activation_bytes=0),
            family=Repeated(model.family, times),
        )  # type: ignore[arg-type]
        finished = FinishedBlocks(tmp_path / f"blocks-{times}", {}, threads=1, resume=False)
        with LiveBytes() as gauge:
            for block, result in calibrate_blocks(calibrator):
                finished.put(block.name, result)
            place = tmp_path / f"packed-{times}"
            packed_writer.write_parts(place, finished.stored(), an_index(), model.family.directory, {})
        return int(gauge.peak)

    assert peak(5) <= peak(2) * 1.02


def test_what_is_freed_is_given_back_before_each_step(model: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, what the C library keeps grows with depth."""
    told: list[str] = []
    monkeypatch.setattr(calibrate, "give_back", lambda: told.append("given back"))
    calibrator = model.calibrator("gptq", model.tasks(model.experts[:1], 2))
    calibrated(replace(calibrator, progress=lambda text, done, total: told.append(text)))
    steps = sum(len(block.steps) for block in model.family.blocks)
    assert told.count("given back") == steps
    assert all(told[at + 1] == "given back" for at in range(0, 2 * steps, 2))
