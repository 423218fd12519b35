"""Numbers that misbehave and that a calibration works with all the same: outliers, constant and dead
channels, zeros, denormals, experts that are the base, are one another or cancel.
"""

from collections.abc import Callable, Mapping
from functools import cache

import pytest
import torch
from torch import Tensor

from epmq_export.calibration.descent import descend
from epmq_export.calibration.rounding import LAZY, gptq
from epmq_export.calibration.solver import inverse_factor
from epmq_export.errors import CalibrationError
from epmq_export.grids import GRIDS, Grid
from epmq_export.tensors.packed import PackedTensor
from tests.tiny.calibrated_bert import Tiny, calibrated, flat, tiny
from tests.tiny.in_memory import InMemory

Model = dict[str, Tensor]
HELD = "what every grid holds"
EACH = pytest.mark.parametrize("preset", ["rtn", "gptq", "anchored"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("tiny") / "model")


def edited(model: Tiny, edit: Callable[[Model], object]) -> Tiny:
    """Return the model with the same edit of the base, of every expert and of the merge."""

    def changed(source: InMemory) -> InMemory:
        tensors = {name: value.clone() for name, value in source.tensors.items()}
        edit(tensors)
        return InMemory(tensors)

    return Tiny(model.family, changed(model.base), [*map(changed, model.experts)], changed(model.merged))


def summed(base: InMemory, experts: list[InMemory]) -> InMemory:
    """Return the task arithmetic of experts, as a merge computes it."""
    merged = {}
    for name, start in base.tensors.items():
        total = torch.zeros_like(start)
        for expert in experts:
            total += expert.tensors[name] - start
        merged[name] = start + 0.3 * total
    return InMemory(merged)


def require_good(model: Tiny, preset: str, count: int = 6) -> Mapping[str, PackedTensor | Tensor]:
    """Calibrate, require that every number is finite and no loss is absurd, and return what is shipped."""
    results = calibrated(model.calibrator(preset, model.tasks(count=count)))
    for name, value in (shipped := flat(results)).items():
        whole = value.dequantise() if isinstance(value, PackedTensor) else value
        assert torch.isfinite(whole).all(), name
    losses = [loss for result in results for loss in result.losses]
    assert all(0 <= loss.loss_after < 2 for loss in losses), max(loss.loss_after for loss in losses)
    return shipped


def outlier(tensors: Model) -> None:
    tensors["embeddings.LayerNorm.bias"][7] = 1e4


def outlier_weight(tensors: Model) -> None:
    tensors["encoder.layer.0.intermediate.dense.weight"][3, 5] = 1e4


def constant_channel(tensors: Model) -> None:
    tensors["embeddings.LayerNorm.weight"][5] = 0


def dead_channel(tensors: Model) -> None:
    tensors["embeddings.LayerNorm.weight"][5] = tensors["embeddings.LayerNorm.bias"][5] = 0


def zero_groups(tensors: Model) -> None:
    tensors["encoder.layer.0.attention.self.query.weight"][:, :32] = 0
    tensors["encoder.layer.1.output.dense.weight"].zero_()


def denormals(tensors: Model) -> None:
    tensors["encoder.layer.0.attention.self.key.weight"][:8] *= 1e-41
    tensors["encoder.layer.1.intermediate.dense.bias"] *= 1e-42


@EACH
@pytest.mark.parametrize(
    "edit", [outlier, outlier_weight, constant_channel, dead_channel, zero_groups, denormals]
)
def test_hard_weights_are_calibrated(model: Tiny, preset: str, edit: Callable[[Model], object]) -> None:
    require_good(edited(model, edit), preset)


@EACH
def test_one_sample_of_one_expert_is_enough(model: Tiny, preset: str) -> None:
    require_good(Tiny(model.family, model.base, model.experts[:1], model.merged), preset, count=1)


@EACH
@pytest.mark.parametrize("copies", [1, 3])
def test_experts_that_are_the_base_leave_the_base(model: Tiny, preset: str, copies: int) -> None:
    alone = Tiny(model.family, model.base, [model.base] * copies, model.base)
    for name, value in require_good(alone, preset).items():
        if not isinstance(value, PackedTensor) and "LayerNorm" in name:
            assert torch.allclose(value.float(), model.base.load(name), atol=0.1)


@EACH
def test_experts_that_are_there_twice_are_calibrated(model: Tiny, preset: str) -> None:
    experts = [model.experts[0]] * 3
    require_good(Tiny(model.family, model.base, experts, summed(model.base, experts)), preset)


def test_twenty_experts_that_cancel_are_no_direction_for_the_anchor(model: Tiny) -> None:
    """The merge is the base but for rounding errors. An anchor far along these would be noise."""
    change = {name: value - model.base.load(name) for name, value in model.experts[0].tensors.items()}
    experts = [
        InMemory({name: value + sign * change[name] for name, value in model.base.tensors.items()})
        for sign in (1, -1) * 10
    ]
    cancelling = Tiny(model.family, model.base, experts, summed(model.base, experts))
    assert cancelling.calibrator("anchored").method.rho == 1.0
    require_good(cancelling, "anchored", count=2)


ROWS = 8


@cache
def hard_weights(group: int) -> dict[str, Tensor]:
    """Return weights of more than one group, and of more than one block of GPTQ's: those that every grid has
    to hold one below the other, `ROWS` of each kind, and larger ones.
    """
    width = max(2 * group, LAZY + group)
    weights = torch.randn(ROWS, width, generator=torch.Generator().manual_seed(1))
    held = [
        torch.full_like(weights, 0.3),  # constant
        1000 + 1e-3 * weights,  # nearly constant
        torch.where(weights.max() == weights, 1e4, weights),  # an outlier
        torch.where(torch.arange(width) // group == 1, 0.0, weights),  # a group of zeros
        torch.where(weights > 0, 1e-40, 0.0),  # zeros and denormals
        weights * torch.tensor([1.0] * (ROWS - 1) + [1e-7])[:, None],  # one small row
    ]
    sizes = (6e4, 1e5, 2.5e5, 5e5, 2e6, 8e6)
    return {HELD: torch.cat(held), **{f"up to {size:g}": weights.clamp(-1, 1) * size for size in sizes}}


@cache
def hard_inputs(width: int) -> tuple[Tensor, Tensor]:
    """Return the Hessian of inputs with a dead channel and a constant one, and what GPTQ needs of it."""
    inputs = torch.randn(600, width, generator=torch.Generator().manual_seed(2))
    inputs[:, 5], inputs[:, 7] = 0, 1
    hessian = (inputs.T @ inputs).double()
    hessian = hessian / hessian.norm() + 0.01 * torch.eye(width, dtype=torch.float64)
    return hessian, inverse_factor(hessian, "x")


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("case", hard_weights(32))
def test_hard_weights_are_rounded_to_finite_numbers_or_refused(grid: Grid, case: str) -> None:
    """The loss of each kind of weights is never above that of zeros, which every grid can hold."""
    weight = hard_weights(grid.group)[case]
    hessian, factor = hard_inputs(weight.shape[1])

    def losses(error: Tensor) -> Tensor:
        return ((error @ hessian) * error).sum(1).view(-1, ROWS).sum(1)

    def left(packed: PackedTensor) -> Tensor:
        assert all(torch.isfinite(part.float()).all() for part in packed.stored.values())
        assert grid.holds(packed.stored)
        return losses(packed.dequantise().double() - weight)

    try:
        first = gptq(weight.double(), factor, grid)
    except CalibrationError as error:
        assert "beyond the reach" in str(error) and case != HELD
        return
    zeros = losses(weight.double())
    greedy = left(first)
    found = left(descend(weight.double(), hessian, first).packed)
    # The descent sums in float32, which cannot tell a share of 1e-7 from nothing.
    assert (greedy <= zeros * 1.001).all(), (greedy, zeros)
    assert (found <= greedy * 1.001 + zeros * 1e-7).all(), (found, greedy)
