"""A calibration on a GPU: the processor's results, and nothing that waits for the GPU at each column. Where
there is no CUDA, a pretended one runs the same code.
"""

import math
from dataclasses import asdict, replace

import pytest
import torch

from epmq_export.calibration import tune as search
from epmq_export.calibration.descent import ROUNDS, descend
from epmq_export.calibration.method import PRESETS, Method
from epmq_export.calibration.refine import refine
from epmq_export.calibration.refinement import Refinement
from epmq_export.calibration.rounding import LAZY, gptq, nearest
from epmq_export.calibration.solver import inverse_factor
from epmq_export.calibration.student import Student
from epmq_export.calibration.task_vectors import task_vectors
from epmq_export.calibration.tune import tune
from epmq_export.grids import GRIDS
from epmq_export.models.activations import Activations
from epmq_export.models.blocks import linears
from epmq_export.models.heads import Head
from epmq_export.tensors.packed import PackedTensor, Values
from tests.tiny.calibrated_bert import Tiny, calibrated, flat, same_bits, texts, tiny
from tests.tiny.devices import DEVICES, a_gpu, equal_codes, on_the_processor
from tests.tiny.pretended_cuda import CUDA, PretendedCuda

OUT = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("tiny") / "model")


def mixed(name: str) -> Method:
    """Return a preset whose targets are half the experts' own inputs, where it has any."""
    method = PRESETS[name]
    return replace(method, alpha=0.5) if method.target == "experts" else method


# Each operation costs much on a pretended GPU. `anchored` does all that `regmean` and `featcal` do.
PRETENDED = [("rtn", "pretended"), ("gptq", "pretended"), ("anchored", "pretended")]
REAL = [
    pytest.param(preset, "cuda", marks=pytest.mark.gpu)
    for preset in ("rtn", "gptq", "regmean", "featcal", "anchored")
]


@pytest.mark.parametrize(("preset", "device"), [*PRETENDED, *REAL])
def test_it_finds_what_the_processor_finds(model: Tiny, preset: str, device: str) -> None:
    calibrator = model.calibrator(mixed(preset), model.tasks(count=8))
    expected = calibrated(calibrator)
    with a_gpu(device) as gpu:
        found = calibrated(replace(calibrator, device=gpu))
    assert all(map(on_the_processor, flat(found).values()))
    # A last bit of difference moves a code, and its error moves those of the columns that follow.
    assert equal_codes(flat(expected), flat(found)) > (0.98 if preset == "rtn" else 0.7)
    for one, other in zip(expected, found, strict=True):
        for before, after in zip(one.losses, other.losses, strict=True):
            assert after.loss_after == pytest.approx(before.loss_after, rel=0.05)


@pytest.mark.gpu
def test_it_finds_the_same_twice(model: Tiny) -> None:
    calibrator = replace(model.calibrator(mixed("featcal"), model.tasks(count=6)), device=CUDA)
    assert same_bits(calibrated(calibrator), calibrated(calibrator))


def test_the_room_for_activations_changes_nothing_but_the_place(model: Tiny) -> None:
    method = replace(mixed("featcal"), rounding="nearest")
    calibrator = replace(model.calibrator(method, model.tasks(model.experts[:1], count=6)), device=CUDA)
    with PretendedCuda():
        expected = calibrated(calibrator)
    for free in (0, 40_000):
        with PretendedCuda(free):
            assert same_bits(calibrated(replace(calibrator, activation_bytes=20_000)), expected)


def test_activations_stay_on_a_gpu_that_has_room() -> None:
    with PretendedCuda(), Activations(100, room=100) as kept:
        kept.put(("a",), torch.ones(20, device=CUDA))
        kept.put(("b",), torch.ones(20, device=CUDA))  # In memory: there is no room for it there.
        kept.put(("c",), torch.ones(20, device=CUDA))  # On disk.
        assert [kept.get((key,)).device.type for key in "abc"] == ["cuda", "cpu", "cpu"]
        assert (kept.held_there, kept.held) == (80, 80)
        kept.move(("a",), ("b",))
        kept.offer(("d",), torch.ones(10, device=CUDA))  # It would take more than half of either.
        assert (kept.held_there, kept.held) == (80, 40) and kept.get(("d",)).device.type == "cpu"
        kept.drop(("b",))
        assert (kept.held_there, kept.held) == (0, 40)
        kept.put(("c",), torch.ones(5))
        assert (kept.held_there, kept.held) == (0, 60)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "IQ4_NL", "Q4_K"])
def test_rounding_waits_for_the_gpu_at_groups_and_not_at_columns(name: str) -> None:
    grid = GRIDS[name]
    width = max(64, grid.group)
    torch.manual_seed(0)
    inputs = torch.randn(4 * width, width, dtype=torch.float64)
    hessian, weight = inputs.T @ inputs / len(inputs), torch.randn(OUT, width)
    with PretendedCuda() as gpu:
        hessian, weight = hessian.to(CUDA), weight.to(CUDA)
        factor = inverse_factor(hessian, "h")
        gpu.waits.clear()
        packed = gptq(weight, factor, grid)
        assert gpu.waits.total() <= width // grid.group + math.ceil(width / LAZY)
        gpu.waits.clear()
        descend(weight, hessian, packed)
        assert gpu.waits.total() <= 1 + 4 * ROUNDS
        gpu.waits.clear()
        nearest(weight, grid)
        assert gpu.waits.total() == 1


def test_statistics_wait_for_the_gpu_at_tasks_and_not_at_batches(model: Tiny) -> None:
    """A calibration on three times the texts waits as often."""
    waits = []
    for count in (16, 48):
        with PretendedCuda() as gpu:
            tasks = model.tasks(model.experts[:1], count=count)
            method = replace(PRESETS["regmean"], rounding="nearest")
            calibrated(replace(model.calibrator(method, tasks), device=CUDA))
        waits.append(gpu.waits.total())
    assert waits[0] == waits[1]


@pytest.mark.parametrize("device", DEVICES)
def test_the_length_of_the_anchor_is_measured_on_it(model: Tiny, device: str) -> None:
    names = linears(model.family)
    expected = task_vectors(model.base, model.experts, names, model.merged)
    with a_gpu(device) as gpu:
        found = task_vectors(model.base, model.experts, names, model.merged, gpu)
    for name, value in asdict(expected).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-9), name
    with PretendedCuda() as pretended:
        task_vectors(model.base, model.experts, names, model.merged, CUDA)
    assert pretended.waits.total() == 1  # At the end, whatever the model's size.


@pytest.mark.parametrize("device", DEVICES)
def test_the_search_for_the_methods_numbers_runs_on_it(
    model: Tiny, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Search one of the numbers: each trial is a calibration, and the others are searched in the same way."""
    monkeypatch.setattr(search, "FACTORS", {"alpha": search.FACTORS["alpha"]})
    calibrator = model.calibrator(replace(PRESETS["epmq"], alpha=0.5), model.tasks(model.experts[:1], 8))
    with a_gpu(device) as gpu:
        found = tune(replace(calibrator, device=gpu))
    expected = tune(calibrator)
    assert found.trials[0].divergence == expected.trials[0].divergence == 1.0
    assert found.method == expected.method


@pytest.mark.parametrize("device", DEVICES)
def test_the_student_of_refine_runs_on_it(model: Tiny, device: str) -> None:
    start = flat(calibrated(model.calibrator("rtn")))
    (batch,) = model.family.batches(texts(0, 4), 4)
    with torch.no_grad():
        expected = Student(model.family, Values(start), True, torch.device("cpu"))
        with a_gpu(device) as gpu:
            found = Student(model.family, Values(start), True, gpu).output(batch).cpu()
        assert (found - expected.output(batch)).abs().max() < 0.05 * found.abs().max()


@pytest.mark.gpu
def test_refine_finds_the_same_twice(model: Tiny) -> None:
    start = flat(calibrated(model.calibrator("rtn")))
    (width,) = {value.shape[0] for name, value in start.items() if name.endswith("output.LayerNorm.weight")}
    head = Head(torch.randn(3, width), torch.zeros(3))
    tasks = [replace(task, head=head) for task in model.tasks(model.experts[:1], count=64)]
    one, other = (
        refine(model.family, tasks, Values(start), Refinement(20, rate=1e-3), CUDA) for _ in range(2)
    )
    assert (one.after, one.step) == (other.after, other.step) and one.step > 0
    assert all(map(on_the_processor, one.tensors.values()))
    for name, value in one.tensors.items():
        again = other.tensors[name]
        if isinstance(value, PackedTensor):
            assert isinstance(again, PackedTensor) and torch.equal(value.codes, again.codes)
        else:
            assert isinstance(again, torch.Tensor) and torch.equal(value, again)


def test_the_pretended_gpu_takes_no_tensor_of_the_processor() -> None:
    with PretendedCuda() as gpu:
        there = torch.ones(2, 3, device=CUDA)
        assert float((there + torch.tensor(1.0))[0, 1]) == 2 and gpu.waits.total() == 1
        for wrong in (
            lambda: there + torch.ones(2, 3),
            lambda: torch.cat([there, torch.ones(2, 3)]),
            lambda: there.addmm_(torch.ones(2, 2), there),
        ):
            with pytest.raises(RuntimeError, match="found at least two devices"):
                wrong()
