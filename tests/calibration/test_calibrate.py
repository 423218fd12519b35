"""Calibration block by block: what presets ship, what they ask of memory, and resuming to the same bits."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from epmq_export.calibration import block_walk, step_rows
from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import BlockResult, TaskData
from epmq_export.calibration.method import PRESETS, Method
from epmq_export.calibration.rounding import gptq, nearest
from epmq_export.calibration.solver import LinearProblem, Loss, inverse_factor
from epmq_export.calibration.statistics import TaskMoments, accumulate
from epmq_export.grids import GRIDS
from epmq_export.grids.layout import Layout
from epmq_export.models import activations as activations_module
from epmq_export.models.blocks import load_block
from epmq_export.models.family import Batch, Block
from epmq_export.tensors.packed import PackedTensor
from epmq_export.tensors.safetensors_file import write_safetensors
from epmq_export.tensors.source import TensorSource
from tests.tiny.calibrated_bert import CPU, Tiny, bits, calibrated, flat, same_bits, tiny
from tests.tiny.in_memory import InMemory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("tiny") / "model")


class Spied(InMemory):
    """Notes which tensors are asked for."""

    def __init__(self, source: InMemory) -> None:
        super().__init__(dict(source.tensors))
        self.asked: list[str] = []

    def load(self, name: str) -> Tensor:
        self.asked.append(name)
        return super().load(name)


@dataclass(frozen=True)
class Run:
    """A calibration, and what it has asked for and told on its way."""

    results: list[BlockResult]
    experts: list[Spied]
    merged: Spied
    progress: list[tuple[str, int, int]]


@pytest.fixture(scope="module")
def runs(model: Tiny) -> dict[str, Run]:
    """Return a calibration by each preset."""

    def run(preset: str) -> Run:
        experts, merged, calls = (
            [*map(Spied, model.experts)],
            Spied(model.merged),
            list[tuple[str, int, int]](),
        )
        told = {"merged": merged, "progress": lambda *call: calls.append(call)}
        found = calibrated(model.calibrator(preset, model.tasks(experts), **told))  # type: ignore[arg-type]
        return Run(found, experts, merged, calls)

    return {preset: run(preset) for preset in PRESETS}


@pytest.fixture(scope="module")
def results(runs: dict[str, Run]) -> dict[str, list[BlockResult]]:
    return {preset: run.results for preset, run in runs.items()}


def linears(model: Tiny) -> list[str]:
    return [
        f"{block.name}.{path}.weight"
        for block in model.family.blocks
        for step in block.steps
        for path in step
        if not path.endswith("LayerNorm")
    ]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_ships_every_tensor_once(
    model: Tiny, results: dict[str, list[BlockResult]], preset: str
) -> None:
    tensors = flat(results[preset])
    assert sorted(tensors) == sorted(model.base.names()) and sum(
        len(result.tensors) for result in results[preset]
    ) == len(tensors)
    for name, value in tensors.items():
        if name in linears(model):
            assert isinstance(value, PackedTensor) and value.grid == GRIDS["Q4_0"]
        elif name in model.family.embeddings:
            assert isinstance(value, PackedTensor) and value.grid == GRIDS["Q8_0"]
        else:
            assert isinstance(value, Tensor) and value.dtype == torch.float32
            if PRESETS[preset].affine == "kept":
                assert torch.equal(value, model.merged.load(name).to(value.dtype))
    losses = [loss for result in results[preset] for loss in result.losses]
    assert [loss.tensor for loss in losses] == linears(model)
    for loss in losses:
        assert (
            loss.grid == "Q4_0"
            and 0 <= loss.loss_before <= loss.loss_after + 1e-9
            and loss.loss_before <= loss.loss_merged + 1e-9
        )


def test_losses_are_ordered_as_the_methods_are(results: dict[str, list[BlockResult]]) -> None:
    """On one target: GPTQ loses less than the nearest. The solved ones come nearer to the experts than their
    merge does.
    """

    def mean(preset: str, field: str) -> float:
        losses: list[float] = [getattr(loss, field) for result in results[preset] for loss in result.losses]
        return sum(losses) / len(losses)

    assert mean("gptq", "loss_after") < 0.8 * mean("rtn", "loss_after")
    for preset in ("regmean", "epmq", "featcal"):
        assert mean(preset, "loss_before") < mean(preset, "loss_merged")
    # The merge is its own target: what is left is the noise of float32 products.
    assert mean("rtn", "loss_before") < 1e-8 and mean("gptq", "loss_before") < 1e-8


def test_rtn_is_the_merged_weight_rounded_to_the_nearest(
    model: Tiny, results: dict[str, list[BlockResult]]
) -> None:
    for name in linears(model):
        assert bits(flat(results["rtn"])[name]) == bits(nearest(model.merged.load(name), GRIDS["Q4_0"]))


@pytest.mark.parametrize("preset", ["regmean", "epmq"])
def test_experts_that_are_the_base_cost_what_rounding_costs(model: Tiny, preset: str) -> None:
    """Their solution is the base, so every expert-target method comes to what GPTQ makes of it with the same
    damping.
    """
    same = {"tasks": model.tasks([model.base] * 3), "merged": model.base}
    found = calibrated(model.calibrator(preset, **same))  # type: ignore[arg-type]
    gptq = replace(PRESETS["gptq"], damping=PRESETS[preset].damping)
    plain = calibrated(model.calibrator(gptq, **same))  # type: ignore[arg-type]
    for result, wanted in zip(found, plain, strict=True):
        for loss, other in zip(result.losses, wanted.losses, strict=True):
            # Zeros, but for the last digits of sums in float32.
            assert loss.loss_before < 5e-8 and loss.loss_merged < 5e-8
            assert loss.loss_after == pytest.approx(other.loss_after, rel=0.1)


def test_solved_affines_of_experts_that_are_the_base_stay_near_it(model: Tiny) -> None:
    """With nothing quantised there is nothing to answer for: FeatCal gives the base back, however long the
    anchor.
    """
    calibrator = model.calibrator(
        "featcal", model.tasks([model.base] * 2), Layout("F32", "F32"), merged=model.base
    )
    for name, value in flat(calibrated(calibrator)).items():
        assert isinstance(value, Tensor)
        torch.testing.assert_close(value, model.base.load(name), rtol=1e-3, atol=1e-4)


def stream(model: Tiny, source: InMemory, batch: Batch, blocks: int) -> Tensor | None:
    """The hidden state after the first blocks, computed with `source` alone."""
    hidden = None
    for block in model.family.blocks[:blocks]:
        with torch.no_grad():
            hidden = block.run(load_block(block, source, CPU), hidden, batch)
    return hidden


def seen_by(model: Tiny, source: InMemory, batch: Batch, index: int, path: str) -> Tensor:
    """What the linear at `path` of a block is given when all of the model has the weights of `source`."""
    block = model.family.blocks[index]
    module = load_block(block, source, CPU)
    caught: list[Tensor] = []
    module.get_submodule(path).register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    with torch.no_grad():
        block.run(module, stream(model, source, batch, index), batch)
    return caught[0]


@pytest.mark.parametrize(
    "path", ["attention.self.value", "attention.output.dense", "intermediate.dense", "output.dense"]
)
def test_a_step_sees_what_the_steps_before_it_ship(
    model: Tiny, results: dict[str, list[BlockResult]], path: str
) -> None:
    """One step of the last layer by hand: the student's inputs are those of a model that ships what came
    before and is merged from there on.
    """
    method, block = PRESETS["featcal"], model.family.blocks[2]
    name = f"{block.name}.{path}.weight"
    shipped = {
        name: value.dequantise() if isinstance(value, PackedTensor) else value.float()
        for name, value in flat(results["featcal"]).items()
    }
    order = [path for step in block.steps for path in step]
    step = next(step for step in block.steps if path in step)
    later = {
        f"{block.name}.{path}.{kind}" for path in order[order.index(step[0]) :] for kind in ("weight", "bias")
    }
    student = InMemory(
        {name: model.merged.load(name) if name in later else value for name, value in shipped.items()}
    )

    def anchor(name: str) -> Tensor:
        base = model.base.load(name)
        return base + method.rho * (model.merged.load(name) - base)

    problem = LinearProblem.start(anchor(name), anchor(name.replace("weight", "bias")), method.damping)
    width = model.base.shape(name)[1]
    hessian = method.damping * torch.eye(width, dtype=torch.float64)
    for task in model.tasks():
        sums, own = TaskMoments.zeros(width, CPU), 0.0
        for batch in model.family.batches(
            sorted(task.samples, key=len), 7
        ):  # batches of another size: the sums are the same
            rows = batch["attention_mask"].bool()
            sources: tuple[Any, ...] = (student, task.expert)
            x_s, x_e = (seen_by(model, source, batch, 2, path)[rows] for source in sources)
            own += float((x_e @ task.expert.load(name).T).square().sum())
            sums.add(x_s, method.alpha * x_e + (1 - method.alpha) * x_s, torch.ones(len(x_s)))
        moments = sums.moments(False, name)
        accumulate(hessian, moments.student, moments.share)
        problem.add(
            task.expert.load(name),
            task.expert.load(name.replace("weight", "bias")),
            moments,
            method.alpha,
            own / sums.weight * moments.scale,
        )
    factor = inverse_factor(hessian, name)
    best = problem.solution(factor)
    loss = next(loss for loss in results["featcal"][2].losses if loss.tensor == name)
    assert loss.loss_before == pytest.approx(Loss(problem, hessian)(best), rel=1e-3)
    assert loss.loss_merged == pytest.approx(Loss(problem, hessian)(model.merged.load(name)), rel=1e-3)
    found = flat(results["featcal"])[name]
    assert isinstance(found, PackedTensor)
    # Sums in another order differ in their last bits, which now and then carry a weight across the middle of
    # two codes.
    assert (
        float(
            (gptq(best, factor, GRIDS["Q4_0"]).dequantise() - found.dequantise()).norm()
            / found.dequantise().norm()
        )
        < 0.05
    )
    assert loss.loss_after == pytest.approx(Loss(problem, hessian)(found.dequantise()), rel=1e-3)
    torch.testing.assert_close(
        shipped[name.replace("weight", "bias")],
        problem.bias(found.dequantise()).float(),
        rtol=1e-3,
        atol=1e-4,
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_experts_run_only_where_alpha_asks(model: Tiny, runs: dict[str, Run], preset: str) -> None:
    """An expert's embeddings and norms are needed to run it and for nothing else, biases and norms also to
    solve them.
    """
    for expert in runs[preset].experts:
        asked = set(expert.asked)
        if preset in ("rtn", "gptq"):
            assert not asked
        elif PRESETS[preset].alpha > 0:
            assert asked == set(expert.names())
        else:
            assert asked == {
                name.replace("weight", kind) for name in linears(model) for kind in ("weight", "bias")
            }


@pytest.mark.parametrize("preset", PRESETS)
def test_a_tensor_of_the_merge_is_asked_for_once(runs: dict[str, Run], preset: str) -> None:
    """A merge is computed at each load."""
    merged = runs[preset].merged
    assert sorted(merged.asked) == merged.names()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_same_again_is_bit_identical_and_so_is_spilling(
    model: Tiny, results: dict[str, list[BlockResult]], preset: str
) -> None:
    assert same_bits(calibrated(model.calibrator(preset, activation_bytes=0)), results[preset])


@pytest.mark.parametrize("held", [2 << 30, 0])
def test_what_memory_has_no_room_for_is_computed_again_and_not_spilled(
    model: Tiny, results: dict[str, list[BlockResult]], held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An expert's block is loaded once for its hidden states, and again for each step whose inputs were not
    kept.
    """
    asked: list[str] = []

    def counting(block: Block, source: TensorSource, device: torch.device) -> nn.Module:
        if source is model.experts[1]:
            asked.append(block.name)
        return load_block(block, source, device)

    written: list[str] = []

    def noting(path: Path, tensors: dict[str, Tensor]) -> None:
        written.append(path.name)
        write_safetensors(path, tensors)

    for module in (block_walk, step_rows):
        monkeypatch.setattr(module, "load_block", counting)
    monkeypatch.setattr(activations_module, "write_safetensors", noting)
    assert same_bits(calibrated(model.calibrator("featcal", activation_bytes=held)), results["featcal"])
    steps = len(model.family.blocks[1].steps)
    assert [asked.count(block.name) for block in model.family.blocks[1:]] == [1 if held else 1 + steps] * 2
    kinds = {name.partition("-")[0] for name in written}
    assert kinds == (set() if held else {"batch", "student", "next"})


def test_the_order_of_texts_does_not_matter(model: Tiny, results: dict[str, list[BlockResult]]) -> None:
    """They are sorted by length, and those of one length are in the given order: only distinct lengths can be
    shuffled.
    """
    tasks = [
        TaskData(task.name, task.expert, [text * (i + 1) for i, text in enumerate(("good ", "is ", "a b "))])
        for task in model.tasks()
    ]
    turned = [TaskData(task.name, task.expert, task.samples[::-1]) for task in tasks]
    assert same_bits(
        calibrated(model.calibrator("epmq", tasks)), calibrated(model.calibrator("epmq", turned))
    )


def test_resuming_at_any_block_gives_the_same_bits(
    model: Tiny, results: dict[str, list[BlockResult]]
) -> None:
    done = {block.name: result for block, result in zip(model.family.blocks, results["featcal"], strict=True)}
    for count in range(1, len(done) + 1):
        known = dict([*done.items()][:count])

        again = [result for _, result in calibrate_blocks(model.calibrator("featcal"), known.get)]
        assert same_bits(again, results["featcal"])


def test_progress_counts_every_step(model: Tiny, runs: dict[str, Run]) -> None:
    calls = runs["featcal"].progress
    total = sum(len(block.steps) for block in model.family.blocks)
    assert [done for _, done, _ in calls] == [*range(total), total] and {call[2] for call in calls} == {total}


def test_what_is_true_of_many_tensors_is_logged_once(model: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    found = calibrated(model.calibrator("rtn", layout=Layout(overrides={"*.query.weight": "Q8_0"})))
    notes = [note for result in found for note in result.notes]
    assert len(notes) > 1 and all(
        note.endswith("is stored on Q8_0, as '*.query.weight' asks") for note in notes
    )
    assert sum("is stored on Q8_0" in message for message in caplog.messages) == 1


def test_notes_say_what_is_not_stored_as_asked(model: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    layout = Layout(embeddings="Q8_0", overrides={"*.1.attention.self.query.weight": "F16"})
    found = calibrated(model.calibrator("gptq", layout=layout))
    note = "encoder.layer.1.attention.self.query.weight stays F16, as '*.1.attention.self.query.weight' asks"
    assert [result.notes for result in found] == [
        [],
        [],
        [note],
    ] and f"{note} (said once: the report has every tensor)" in caplog.messages
    tensors = flat(found)
    kept, table = (
        tensors["encoder.layer.1.attention.self.query.weight"],
        tensors["embeddings.word_embeddings.weight"],
    )
    assert isinstance(kept, Tensor) and torch.equal(
        kept, model.merged.load("encoder.layer.1.attention.self.query.weight").half()
    )
    assert isinstance(table, PackedTensor) and table.grid == GRIDS["Q8_0"]
    assert found[2].losses[0].grid == "F16"


def test_members_of_a_step_are_rounded_as_if_alone(model: Tiny) -> None:
    """The first step's query, key and value share inputs: on one grid in one pass, or the key on another
    grid.
    """
    together = flat(calibrated(model.calibrator("anchored"))[:2])
    apart = flat(
        calibrated(
            model.calibrator("anchored", layout=Layout(overrides={"*.0.attention.self.key.weight": "Q8_0"}))
        )[:2]
    )
    names = [f"encoder.layer.0.attention.self.{part}.weight" for part in ("query", "value", "key")]
    assert [
        value.grid.name for value in map(apart.__getitem__, names) if isinstance(value, PackedTensor)
    ] == ["Q4_0", "Q4_0", "Q8_0"]
    assert all(bits(together[name]) == bits(apart[name]) for name in names[:2])


def test_rows_of_padding_do_not_count(model: Tiny) -> None:
    """One long text among short ones pads them; alone in their batches they give the same sums."""
    wide = [TaskData("only", model.experts[0], ["good", "is", "a b c d e f g h i j k l m n o p"])]

    class Single:
        def __getattr__(self, name: str) -> object:
            return getattr(model.family, name)

        def batches(self, texts: list[str], size: int) -> list[Batch]:
            return [*model.family.batches(texts, 1)]

    together = calibrated(model.calibrator("epmq", wide))
    alone = calibrated(replace(model.calibrator("epmq", wide), family=Single()))  # type: ignore[arg-type]
    for one, other in zip(together, alone, strict=True):
        for loss, wanted in zip(one.losses, other.losses, strict=True):
            assert loss.loss_before == pytest.approx(wanted.loss_before, rel=1e-2, abs=1e-7)


def test_numbers_of_a_users_own() -> None:
    featcal: Method = PRESETS["featcal"]
    assert featcal.override(alpha=None, rho=None, damping=None) == featcal
    changed = featcal.override(alpha=0.0, rho=0.0, damping=0.0)
    assert (changed.alpha, changed.rho, changed.damping, changed.affine) == (0.0, 0.0, 0.0, "solved")
