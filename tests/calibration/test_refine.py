"""Refining a calibrated model: nearer to its experts, on the same grids, or left as it was."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from converters import open_family
from epmq_export.calibration import student
from epmq_export.calibration.calibrator import TaskData
from epmq_export.calibration.on_grid import OnGrid
from epmq_export.calibration.refine import Refined, refine
from epmq_export.calibration.refinement import TRIAL, Refinement
from epmq_export.calibration.student import Tensors
from epmq_export.errors import CalibrationError
from epmq_export.grids import GRIDS, Grid
from epmq_export.models import reference
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.packed import PackedTensor, Values
from epmq_export.tensors.source import renamed
from tests.tiny import embedder
from tests.tiny.calibrated_bert import CPU, Tiny, bits, calibrated, flat, tiny
from tests.tiny.in_memory import InMemory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def start(model: Tiny) -> Tensors:
    return flat(calibrated(model.calibrator("rtn")))


def tasks(model: Tiny) -> list[TaskData]:
    """One expert: random ones have nothing in common that a student could learn."""
    return model.tasks(model.experts[:1], count=160)


@pytest.fixture(scope="module")
def refined(model: Tiny, start: Tensors) -> Refined:
    return refine(model.family, tasks(model), Values(start), Refinement(60, rate=1e-3), CPU)


def held_out(tensors: Tensors, model: Tiny, given: Sequence[TaskData] | None = None) -> float:
    """Mean 1 - cosine to the experts on every eighth text, by the reference runtime."""
    source = InMemory(
        {
            name: value.dequantise() if isinstance(value, PackedTensor) else value
            for name, value in tensors.items()
        }
    )
    texts = [(task, text) for task in given or tasks(model) for text in task.samples[7::8]]
    ours = torch.cat(
        [torch.from_numpy(reference.outputs(model.family, source, [text], CPU)) for _, text in texts]
    )
    theirs = torch.cat(
        [torch.from_numpy(reference.outputs(model.family, task.expert, [text], CPU)) for task, text in texts]
    )
    return float(1 - cosine_similarity(ours, theirs).mean())


def test_what_it_returns_is_nearer_to_the_experts_on_texts_it_was_not_trained_on(
    model: Tiny, start: Tensors, refined: Refined
) -> None:
    assert refined.step > 0
    assert refined.after < 0.8 * refined.before
    assert held_out(start, model) == pytest.approx(
        refined.before, rel=0.05
    )  # trained in bfloat16 where the machine has it
    assert held_out({**start, **refined.tensors}, model) == pytest.approx(refined.after, rel=0.05)


def test_tasks_count_alike_however_many_samples_they_have(model: Tiny, start: Tensors) -> None:
    few, many = model.tasks([model.experts[0], model.merged], count=48)  # The start is near to the merge.
    given = [replace(few, samples=few.samples[:16]), many]
    found = refine(model.family, given, Values(start), Refinement(1, weights=False), CPU)
    far, near = (held_out(start, model, [task]) for task in given)
    assert far > 2 * near
    assert found.before == pytest.approx((far + near) / 2, rel=0.05)


def test_of_many_samples_the_first_alone_are_held_out(
    model: Tiny, start: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("epmq_export.calibration.refine.LESSONS", 32)
    (many,) = model.tasks(model.experts[:1], count=64)
    one_step = Refinement(1, weights=False)
    found, first = (
        refine(model.family, [replace(many, samples=many.samples[:count])], Values(start), one_step, CPU)
        for count in (64, 32)
    )
    assert found.before == first.before


def test_it_ends_on_the_same_grids_and_changes_linears_biases_and_norms_only(
    model: Tiny, start: Tensors, refined: Refined
) -> None:
    assert start.keys() - refined.tensors.keys() == {
        name for name in start if "embedding" in name and "LayerNorm" not in name
    }
    for name, value in refined.tensors.items():
        before = start[name]
        assert type(value) is type(before)
        if isinstance(value, PackedTensor) and isinstance(before, PackedTensor):
            assert value.grid is before.grid and value.codes.dtype == torch.int8
            assert value.codes.min() >= value.grid.lowest and value.codes.max() <= value.grid.highest
            assert {part: (t.dtype, t.shape) for part, t in value.stored.items()} == {
                part: (t.dtype, t.shape) for part, t in before.stored.items()
            }
            assert not torch.equal(value.codes, before.codes)
        else:
            assert isinstance(value, Tensor) and not value.requires_grad


def test_biases_and_norms_alone_bring_it_nearer_and_leave_every_code(model: Tiny, start: Tensors) -> None:
    found = refine(model.family, tasks(model), Values(start), Refinement(60, weights=False, rate=1e-3), CPU)
    assert found.step > 0 and found.after < 0.95 * found.before
    assert held_out({**start, **found.tensors}, model) == pytest.approx(found.after, rel=0.05)
    changed = {name for name, value in found.tensors.items() if bits(value) != bits(start[name])}
    assert changed == {name for name, value in start.items() if isinstance(value, Tensor) and value.ndim == 1}


def test_the_rate_that_is_best_in_a_trial_is_taken(model: Tiny, start: Tensors) -> None:
    asked = Refinement(40, weights=False, rate=1e-6, faster=(1e-3, 1e6), checks=1)
    done: list[tuple[int, int]] = []
    found = refine(
        model.family,
        tasks(model),
        Values(start),
        asked,
        CPU,
        lambda _, step, steps: done.append((step, steps)),
    )
    assert found.rate == 1e-3 and found.step == 40
    assert done == [*((step, 40 + 3 * TRIAL) for step in range(40 + 3 * TRIAL + 1))]
    alone = refine(model.family, tasks(model), Values(start), replace(asked, rate=1e-3, faster=()), CPU)
    assert found.after == alone.after < found.before
    assert {name: bits(value) for name, value in found.tensors.items()} == {
        name: bits(value) for name, value in alone.tensors.items()
    }


def test_no_rate_is_tried_that_lies_above_one_that_is_no_better(model: Tiny, start: Tensors) -> None:
    asked = Refinement(8, weights=False, rate=1e-3, faster=(1e6, 2e-3), checks=1)
    found = refine(model.family, tasks(model), Values(start), asked, CPU)
    alone = refine(model.family, tasks(model), Values(start), replace(asked, faster=()), CPU)
    assert (found.rate, found.step, found.after) == (1e-3, 8, alone.after)
    assert asked.most == 3 * 8  # It is no longer than a trial, and is not trained anew.
    assert {name: bits(value) for name, value in found.tensors.items()} == {
        name: bits(value) for name, value in alone.tensors.items()
    }


def test_one_block_in_memory_at_a_time_gives_the_same_bits(
    model: Tiny, start: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counted(Values):
        def load(self, name: str) -> Tensor:
            loads[name] += 1
            return super().load(name)

    def found() -> dict[str, bytes]:
        loads.clear()
        done = refine(model.family, tasks(model), Counted(start), settings, CPU)
        assert done.step > 0
        return {name: bits(value) for name, value in done.tensors.items()}

    loads, settings = Counter[str](), Refinement(8, weights=False, rate=1e-3, checks=1)
    whole = found()
    assert set(loads.values()) == {1}
    monkeypatch.setattr(student, "HELD", 0)
    assert found() == whole
    # Once for what is trained, twice a step, and once for the texts held out, at the start and at the end.
    assert loads["encoder.layer.0.output.dense.weight"] == 1 + 2 * 8 + 2


def test_the_same_again_is_bit_identical(model: Tiny, start: Tensors, refined: Refined) -> None:
    again = refine(model.family, tasks(model), Values(start), Refinement(60, rate=1e-3), CPU)
    assert {name: bits(value) for name, value in again.tensors.items()} == {
        name: bits(value) for name, value in refined.tensors.items()
    }


def test_where_training_does_harm_the_start_is_returned(model: Tiny, start: Tensors) -> None:
    found = refine(model.family, tasks(model), Values(start), Refinement(5, rate=1e6), CPU)
    assert (found.step, found.after) == (0, found.before) and not found.tensors


def test_too_few_texts_to_hold_any_out_is_an_error(model: Tiny, start: Tensors) -> None:
    few = [TaskData(task.name, task.expert, task.samples[:7]) for task in tasks(model)]
    with pytest.raises(CalibrationError, match=r"raise calibration\.samples"):
        refine(model.family, few, Values(start), Refinement(5), CPU)


def test_an_expert_that_is_not_finite_is_an_error(model: Tiny, start: Tensors) -> None:
    bad = {name: value.clone() for name, value in model.experts[0].tensors.items()}
    bad["encoder.layer.1.output.dense.weight"][0, 0] = torch.nan
    with pytest.raises(CalibrationError, match="not finite"):
        refine(model.family, model.tasks([InMemory(bad)]), Values(start), Refinement(5), CPU)


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_gradients_are_those_of_the_grid_with_its_codes_held(grid: Grid) -> None:
    """Steps and offsets: against autograd through step * level + offset. Latent values: 1 inside the range, 0
    outside.
    """
    torch.manual_seed(0)
    weight = torch.randn(4, 2 * grid.group)
    packed = PackedTensor(grid, *grid.quantise(weight))
    module = OnGrid(packed)
    upstream = torch.randn(weight.shape)
    latent = packed.dequantise().requires_grad_()  # at the levels themselves, so that the codes are known
    result = module(latent)
    assert torch.equal(result, packed.dequantise())
    result.backward(upstream)
    assert latent.grad is not None and torch.equal(latent.grad, upstream)
    if grid.group > grid.subgroup:
        assert module.step.grad is None and all(
            torch.equal(value, packed.stored[part]) for part, value in module.packed(latent).stored.items()
        )
        return
    assert (
        module.step.grad is not None and module.step.grad.abs().max() < 1e-4
    )  # inside, a step cancels: its codes follow

    far = (100 * weight.abs().max() * weight.sign()).requires_grad_()
    module.zero_grad()
    module(far).backward(upstream)
    assert far.grad is not None and not far.grad.any()
    codes = module.packed(far).codes
    step = module.step.detach().clone().requires_grad_()
    levels = grid.level(codes).reshape(4, -1, grid.subgroup)
    (levels * step[:, :, None] * upstream.reshape(levels.shape)).sum().backward()
    torch.testing.assert_close(module.step.grad, step.grad)
    if module.offset is not None:
        torch.testing.assert_close(module.offset.grad, upstream.reshape(levels.shape).sum(2))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_rounding_for_training_is_that_of_the_file(grid: Grid) -> None:
    """Values bit for bit; and gradients as autograd has them of the plain formula, where rounding is passed
    straight through.
    """
    latent = torch.randn(4, 512, generator=torch.Generator().manual_seed(7))
    packed = PackedTensor(grid, *grid.quantise(latent))
    latent = (1.3 * latent).requires_grad_()
    module = OnGrid(packed)
    found = module(latent)
    assert torch.equal(found, module.packed(latent).dequantise())
    along = torch.randn(4, 512, generator=torch.Generator().manual_seed(8))
    (found * along).sum().backward()
    step, offset = grid.steps(packed.stored)
    assert latent.grad is not None
    ratio = latent.detach().reshape(4, -1, grid.subgroup)
    ratio = (ratio if offset is None else ratio - offset[:, :, None]) / step[:, :, None]
    inside = (ratio > grid.levels[0] - 0.5) & (ratio < grid.levels[-1] + 0.5)
    same = torch.eq(latent.grad != 0, inside.reshape(4, 512))
    assert float(same.float().mean()) > 0.999 and bool(inside.any()) and not bool(inside.all())
    if module.step.requires_grad:
        level = grid.level(packed.grid.codes(ratio.clone()))
        wanted = (along.reshape(ratio.shape) * (level - ratio * inside)).sum(2)
        torch.testing.assert_close(module.step.grad, wanted, rtol=1e-3, atol=1e-2)


def test_norms_come_out_as_a_file_holds_them_that_adds_to_their_weights(tmp_path: Path) -> None:
    """GGUF has one more in Gemma's: what is read back is another number, unless calibration made room."""
    directory = embedder.write_gemma(tmp_path / "model", dense=False)
    family = open_family(directory)
    source = renamed(open_checkpoint(directory), family.canonical)
    start: Tensors = {name: source.load(name) for name in source.names()}
    draw = torch.Generator().manual_seed(1)
    moved = {name: source.load(name) for name in source.names()}
    moved |= {name: each + 0.1 * torch.randn(each.shape, generator=draw) for name, each in moved.items()}
    texts = [f"the cat sat on {place} mats ." for place in range(16)]
    task = TaskData(name="cats", expert=InMemory(moved), samples=texts)
    found = refine(family, [task], Values(start), Refinement(6, rate=1e-3, weights=False), CPU)
    norm = found.tensors["model.norm.weight"]
    assert isinstance(norm, Tensor) and found.step > 0
    assert not torch.equal(norm, source.load("model.norm.weight"))
    assert torch.equal(norm + 1 - 1, norm)
