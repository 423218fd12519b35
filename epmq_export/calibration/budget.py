"""A budget of bits, or of a file's size, spent where it lowers the loss most. The measured loss of each
linear on each grid decides, not its name.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from torch import Tensor

from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import Calibrator
from epmq_export.calibration.rounding import store
from epmq_export.grids import GRIDS, Grid
from epmq_export.grids.layout import Layout
from epmq_export.models.blocks import alike, linears
from epmq_export.tensors.packed import dequantised

_STEP = 256
"""The bits by which a budget may be smaller than the largest that fits: those of one group of weights."""


@dataclass(frozen=True)
class Option:
    """One linear on one grid."""

    grid: str
    bits: float
    """The bits of the whole tensor."""

    loss: float
    """The loss as a share of the energy of the linear's targets."""


def fewest_bits(calibrator: Calibrator, candidates: Sequence[Grid]) -> float:
    """Return the least bits a weight that a budget can be, on average over the linears that it is spent on:
    those bits with all of them on the smallest grid that divides their inputs. 0 where there are no such
    linears.
    """
    least, weights = 0.0, 0
    for name in linears(calibrator.family):
        shape = tuple(calibrator.base.shape(name))
        fitting = [grid.bits_per_weight for grid in candidates if grid.fits(shape)]
        if fitting and calibrator.layout.pattern(name) is None:
            least += min(fitting) * prod(shape)
            weights += prod(shape)
    return least / max(weights, 1)


def on_at_most(
    layout: Layout, shapes: Mapping[str, tuple[int, ...]], candidates: Sequence[Grid], bits: float
) -> Layout:
    """Return a layout with each linear that no pattern decides on the largest candidate of up to `bits` a
    weight that divides its inputs, or on the smallest where there is none. `shapes` are those of the linears.
    """
    chosen = {}
    for name, shape in shapes.items():
        fitting = sorted((grid for grid in candidates if grid.fits(shape)), key=_bits)
        if fitting and layout.pattern(name) is None:
            within = [grid for grid in fitting if grid.bits_per_weight <= bits]
            chosen[name] = (within[-1] if within else fitting[0]).name
    return replace(layout, chosen=chosen)


def with_budget(calibrator: Calibrator, bits: float, candidates: Sequence[Grid]) -> tuple[Layout, str]:
    """Return the layout that spends `bits` a weight, on average over the linears that no pattern decides, and
    a sentence that says how.

    A rehearsal of the calibration goes on with the candidate that is nearest below the budget. `bits` must be
    at least `fewest_bits`.
    """
    options, weights = _rehearsed(calibrator, _nearest(candidates, bits), candidates)
    together = alike(calibrator.family)
    chosen = _spend(options, together, bits * weights)
    return _told(calibrator.layout, chosen, weights, f"{bits:g} bits a weight")


def within_size(
    calibrator: Calibrator, asked: str, fits: Callable[[Layout], bool], candidates: Sequence[Grid]
) -> tuple[Layout, str]:
    """Return the layout that lowers the loss most of those that `fits` accepts, and a sentence that says how.

    It is what `with_budget` gives for the largest budget of bits that fits, so `fits` has to accept the
    smallest candidates. `asked` is the size in words. A rehearsal of the calibration goes on with the largest
    candidate that fits for all linears.
    """
    shapes = {name: tuple(calibrator.base.shape(name)) for name in linears(calibrator.family)}
    all_on = sorted({grid.bits_per_weight for grid in candidates})
    fitting = [bits for bits in all_on if fits(on_at_most(calibrator.layout, shapes, candidates, bits))]
    options, weights = _rehearsed(calibrator, _nearest(candidates, max(fitting, default=0.0)), candidates)

    def laid(chosen: Mapping[str, Option]) -> Layout:
        return replace(calibrator.layout, chosen={name: option.grid for name, option in chosen.items()})

    together = alike(calibrator.family)
    low = sum(min(option.bits for option in each) for each in options.values())
    high = sum(max(option.bits for option in each) for each in options.values())
    best = _spend(options, together, high)
    if not fits(laid(best)):
        best = _spend(options, together, low)
        while high - low > _STEP:
            middle = (low + high) / 2
            found = _spend(options, together, middle)
            if fits(laid(found)):
                best, low = found, middle
            else:
                high = middle
    return _told(calibrator.layout, best, weights, f"files of at most {asked}")


def _rehearsed(
    calibrator: Calibrator, near: Grid, candidates: Sequence[Grid]
) -> tuple[dict[str, list[Option]], int]:
    """Return the options of each linear that no pattern decides, and the number of weights of all of them.

    A rehearsal of the calibration rounds each linear onto every candidate that divides its inputs, under the
    Hessian that it has there, and goes on with `near`. It costs one calibration and the rounding of the
    candidates.
    """
    options: dict[str, list[Option]] = {}
    weights = 0

    def measure(name: str, best: Tensor, factor: Tensor | None, loss: Callable[[Tensor], float]) -> None:
        nonlocal weights
        if calibrator.layout.pattern(name) is not None:
            return
        fitting = [grid for grid in candidates if grid.fits(tuple(best.shape))]
        if fitting:
            weights += best.numel()
            options[name] = [
                Option(
                    grid.name,
                    grid.bits_per_weight * best.numel(),
                    loss(dequantised(store(name, best, grid, factor))),
                )
                for grid in fitting
            ]

    nearest = replace(calibrator.layout, linears=near.name)
    for _ in calibrate_blocks(replace(calibrator, layout=nearest, measure=measure)):
        pass
    return options, weights


def _nearest(candidates: Sequence[Grid], bits: float) -> Grid:
    """Return the candidate with the most bits a weight that are not more than `bits`, or else the first."""
    within = (grid for grid in candidates if grid.bits_per_weight <= bits)
    return max(within, key=_bits, default=candidates[0])


def _bits(grid: Grid) -> float:
    return grid.bits_per_weight


def _told(layout: Layout, chosen: Mapping[str, Option], weights: int, asked: str) -> tuple[Layout, str]:
    """Return a layout with the options that were chosen, and a sentence on them."""
    spent = sum(option.bits for option in chosen.values()) / max(weights, 1)
    counts = Counter(option.grid for option in chosen.values())
    parts = ", ".join(f"{counts[name]} on {name}" for name in GRIDS if counts[name])
    note = f"{asked}: {parts}, by measured loss; {spent:.3f} bits a weight in all"
    return replace(layout, chosen={name: option.grid for name, option in chosen.items()}), note


def _spend(
    options: Mapping[str, Sequence[Option]], together: Mapping[str, Sequence[str]], budget: float
) -> dict[str, Option]:
    """Return one option for each tensor as `spend` does, with one grid for those that are stored together."""
    firsts = {name: first for first, names in together.items() for name in names}
    groups: dict[str, list[str]] = {}
    for name in options:
        groups.setdefault(firsts.get(name, name), []).append(name)
    summed = {
        first: [
            Option(parts[0].grid, sum(part.bits for part in parts), sum(part.loss for part in parts))
            for parts in zip(*(options[name] for name in names), strict=True)
        ]
        for first, names in groups.items()
    }
    found = spend(summed, budget)
    return {
        name: next(option for option in options[name] if option.grid == found[first].grid)
        for first, names in groups.items()
        for name in names
    }


def spend(options: Mapping[str, Sequence[Option]], budget: float) -> dict[str, Option]:
    """Return one option for each tensor, within the budget in bits, chosen greedily by loss saved per bit
    from the cheapest on.

    Along the convex hull of a tensor's options the savings fall, so that greed is exact up to the last step.
    Raises ValueError where even the cheapest options are over the budget.
    """
    hulls = {name: hull(each) for name, each in options.items()}
    taken = dict.fromkeys(hulls, 0)
    left = budget - sum(each[0].bits for each in hulls.values())
    if left < -1:  # A budget that was a mean of floats may miss less than a bit.
        least = budget - left
        raise ValueError(f"a budget of {budget:.0f} bits for tensors that take {least:.0f} at least")
    steps = [
        ((one.loss - other.loss) / (other.bits - one.bits), name, place)
        for name, each in hulls.items()
        for place, (one, other) in enumerate(itertools.pairwise(each), 1)
    ]
    for _, name, place in sorted(steps, key=lambda step: (-step[0], step[1], step[2])):
        cost = hulls[name][place].bits - hulls[name][place - 1].bits
        if taken[name] == place - 1 and cost <= left:
            taken[name], left = place, left - cost
    return {name: each[taken[name]] for name, each in hulls.items()}


def hull(options: Sequence[Option]) -> list[Option]:
    """Return the options that no mixture of others beats, by rising bits and falling loss."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda option: (option.bits, option.loss)):
        if kept and option.loss >= kept[-1].loss:
            continue
        while len(kept) > 1 and _slope(kept[-2], kept[-1]) <= _slope(kept[-2], option):
            kept.pop()
        kept.append(option)
    return kept


def _slope(one: Option, other: Option) -> float:
    """Return the loss saved per bit."""
    return (one.loss - other.loss) / (other.bits - one.bits)
