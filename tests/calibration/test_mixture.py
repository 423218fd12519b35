"""A mixture: each linear's statistics are of the rows that the student's router gives its expert."""

from dataclasses import dataclass, replace
from functools import partial

import pytest
import torch
from torch import Tensor

from converters.decoder.family import Decoder
from epmq_export.calibration.budget import with_budget
from epmq_export.calibration.calibrator import BATCH, BlockResult, Calibrator, TaskData
from epmq_export.calibration.method import PRESETS
from epmq_export.calibration.refine import refine
from epmq_export.calibration.refinement import Refinement
from epmq_export.grids import GRIDS
from epmq_export.grids.layout import FULL, Layout
from epmq_export.models.blocks import alike, inputs_of, linears, load_block, run_block
from epmq_export.models.heads import AsLogits
from epmq_export.models.mixture import Mixture
from epmq_export.tensors.packed import PackedTensor, Values
from epmq_export.tensors.source import TensorSource
from tests.tiny import decoder
from tests.tiny.calibrated_bert import calibrated, flat, same_bits
from tests.tiny.decoder_files import opened
from tests.tiny.devices import DEVICES, a_gpu, on_the_processor

CPU = torch.device("cpu")
PREFIX = "model.layers.0.mlp.experts"
ALPHA, DAMPING = 0.3, 0.05


@dataclass(frozen=True)
class Tiny:
    """A layer of four experts, two of them chosen, and two fine-tunes."""

    family: Decoder
    base: TensorSource
    experts: list[TensorSource]

    def calibrator(self, texts: list[str], layout: Layout = FULL, **other: object) -> Calibrator:
        method = replace(PRESETS["featcal"], alpha=ALPHA, rho=1.0, damping=DAMPING)
        tasks = [TaskData(f"task{t}", expert, texts) for t, expert in enumerate(self.experts)]
        given = (self.family, self.base, self.experts[0], tasks, method, layout, CPU)
        return Calibrator(*given, **other)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    place = tmp_path_factory.mktemp("mixture")
    base = decoder.write(place / "base", "qwen3_moe", num_hidden_layers=1)
    experts = [
        opened(decoder.write_expert(place / str(seed), base, "qwen3_moe", seed, size=0.3))[1]
        for seed in (1, 2)
    ]
    family, source = opened(base)
    return Tiny(family, source, [*experts])


@pytest.fixture(scope="module")
def results(tiny: Tiny) -> list[BlockResult]:
    return calibrated(tiny.calibrator([*decoder.LINES]))


@torch.no_grad()
def given_to(tiny: Tiny, source: TensorSource) -> tuple[Tensor, Mixture]:
    """Return what a model gives its mixture, [rows, width] without padding, and the mixture."""
    texts = sorted(decoder.LINES, key=len)
    (batch,) = tiny.family.batches(texts, BATCH)
    stem, layer, _ = tiny.family.blocks
    hidden = run_block(stem, load_block(stem, source, CPU), None, batch, CPU)
    module = load_block(layer, source, CPU)
    (seen,), _ = inputs_of(module, ["mlp"], partial(run_block, layer, module, hidden, batch, CPU), stop=True)
    mixture = module.get_submodule("mlp")
    assert isinstance(mixture, Mixture)
    return seen[batch["attention_mask"].bool()], mixture


@torch.no_grad()
@pytest.mark.parametrize("expert", range(4))
def test_its_solution_and_its_loss_are_those_of_the_rows_that_the_student_sends_there(
    expert: int, tiny: Tiny, results: list[BlockResult]
) -> None:
    """Against sums in float64, with the fine-tunes' rows at the student's places."""
    shipped, name = flat(results), f"{PREFIX}.{expert}.down_proj.weight"
    rows, mixture = given_to(tiny, Values(shipped))
    taken = mixture.gate(rows).topk(2).indices.eq(expert).any(-1)
    assert 0 < int(taken.sum()) < len(taken)
    x = inside(mixture, expert, rows[taken]).double()
    anchor = tiny.experts[0].load(name).double()
    hessian, numerator = DAMPING * torch.eye(x.shape[1], dtype=torch.float64), DAMPING * anchor
    terms = []
    for source in tiny.experts:
        theirs, own = given_to(tiny, source)
        target = ALPHA * inside(own, expert, theirs[taken]).double() + (1 - ALPHA) * x
        weight = source.load(name).double()
        scale = 1 / (x.T @ x / len(x)).norm() / len(x)
        hessian, numerator = hessian + scale * x.T @ x, numerator + scale * weight @ target.T @ x
        terms.append((scale, target @ weight.T))
    best = numerator @ hessian.inverse()
    found = shipped[name]
    assert isinstance(found, Tensor)
    torch.testing.assert_close(found.double(), best, rtol=0, atol=2e-5 * float(best.abs().max()))
    assert (best - anchor).norm() > 1e-3 * anchor.norm()
    error = sum(scale * (x @ best.T - made).square().sum() for scale, made in terms)
    error += DAMPING * (best - anchor).square().sum()
    energy = sum(scale * made.square().sum() for scale, made in terms)
    (loss,) = (loss for result in results for loss in result.losses if loss.tensor == name)
    assert loss.loss_after == pytest.approx(float(error / energy), rel=1e-3)
    assert loss.loss_after < loss.loss_merged


def inside(mixture: Mixture, expert: int, rows: Tensor) -> Tensor:
    """Return what stands before the last linear of an expert."""
    module = mixture.experts[expert]
    up: Tensor = module.get_submodule("up_proj")(rows)
    return torch.nn.functional.silu(module.get_submodule("gate_proj")(rows)) * up


def test_what_memory_has_no_room_for_changes_nothing(tiny: Tiny, results: list[BlockResult]) -> None:
    assert same_bits(calibrated(tiny.calibrator([*decoder.LINES], activation_bytes=0)), results)


@pytest.mark.parametrize("device", DEVICES)
def test_a_gpu_finds_what_the_processor_finds(tiny: Tiny, results: list[BlockResult], device: str) -> None:
    with a_gpu(device) as gpu:
        found = flat(calibrated(replace(tiny.calibrator([*decoder.LINES]), device=gpu)))
    assert all(map(on_the_processor, found.values()))
    for name, expected in flat(results).items():
        value = found[name]
        assert isinstance(value, Tensor) and isinstance(expected, Tensor)
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_it_is_refined_on_its_grids(tiny: Tiny) -> None:
    """Experts that no sample of a step reaches have no gradients."""
    layout = Layout("Q4_0")
    calibrator = tiny.calibrator(["a", *decoder.LINES, "is it so ?", "a dog"], layout)
    tensors = flat(calibrated(calibrator))
    tasks = [replace(task, head=AsLogits()) for task in calibrator.tasks]
    found = refine(tiny.family, tasks, Values(tensors), Refinement(10, rate=3e-3), CPU)
    name = f"{PREFIX}.0.up_proj.weight"
    before, after = tensors[name], found.tensors[name]
    assert isinstance(before, PackedTensor) and isinstance(after, PackedTensor)
    assert found.after < found.before and not torch.equal(before.dequantise(), after.dequantise())


def test_where_no_row_comes_the_anchor_stands(tiny: Tiny) -> None:
    """One token goes to two experts of four."""
    calibrator = tiny.calibrator(["a"])
    found = calibrated(calibrator)
    unreached = {name: count for result in found for name, count in result.unreached.items()}
    assert unreached == dict.fromkeys(unreached, 2)
    assert sorted(unreached) == sorted(
        name for names in alike(tiny.family).values() for name in names if name in unreached
    )
    assert len(unreached) == 6
    for name in linears(tiny.family):
        value = flat(found)[name]
        assert isinstance(value, Tensor)
        close = torch.allclose(value, calibrator.merged.load(name), rtol=0, atol=1e-6)
        assert close == (name in unreached)


def test_a_budget_has_one_grid_for_a_linear_of_all_experts(tiny: Tiny) -> None:
    candidates = [GRIDS[name] for name in ("Q4_0", "Q5_0", "Q8_0")]
    layout, _ = with_budget(tiny.calibrator([*decoder.LINES], Layout()), 6.0, candidates)
    grids = [{layout.chosen[name] for name in names} for names in alike(tiny.family).values()]
    assert [len(each) for each in grids] == [1, 1, 1] and len({*layout.chosen.values()}) > 1
    weights = {name: tiny.base.load(name).numel() for name in layout.chosen}
    bits = sum(count * GRIDS[layout.chosen[name]].bits_per_weight for name, count in weights.items())
    assert bits <= 6.0 * sum(weights.values())
