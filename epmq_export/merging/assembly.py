"""The model that a plan makes of the models it names: slices of layers under their new numbers, each merged
by itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from epmq_export.errors import Key, SettingError
from epmq_export.merging.aligned import Aligned
from epmq_export.merging.merged import merged
from epmq_export.merging.names import Layers, comes_before, count_layers, layer_of, stack_of, with_layer
from epmq_export.merging.plan import WHOLE, Plan, Slice, Strand
from epmq_export.merging.vocabulary import Vocabulary
from epmq_export.tensors.source import Joined, Renamed, TypedSource

# Names of the module that takes the tensors of no other module. The first is mergekit's. The second is that
# of T5, whose head goes with the shared embeddings.
_REST = ("default", "shared")


def assemble(
    plan: Plan,
    models: Mapping[str, TypedSource],
    dtype: torch.dtype | None = None,
    vocabulary: Vocabulary | None = None,
) -> TypedSource:
    """Return the merge, computed tensor by tensor as it is loaded.

    `models` are by location. With `vocabulary` all of them get its tokens first. Raises InputError where
    models do not fit each other, and SettingError for layers that a model has not and modules that no tensor
    belongs to.
    """
    parts: list[TypedSource] = []
    for name, slices in plan.modules.items():
        inside = (
            (lambda tensor: True) if name == WHOLE else _members(plan, name, models[slices[0].base.location])
        )
        parts += _module(plan, slices, models, inside, dtype, vocabulary)
    return parts[0] if len(parts) == 1 else Joined(parts)


def origins(plan: Plan, base: TypedSource) -> dict[str, list[int]]:
    """Return which layer of its slice's base each merged layer comes from, for each stack of layers that
    `slices` make, by the stack's name in the base.

    The plan is one that `assemble` takes. Raises SettingError where `slices` cut a part of the base that does
    not have exactly one stack.
    """
    return {
        stack: [layer for span in ranges for layer in range(*span)]
        for stack, _, ranges in _sliced(plan, base)
    }


def require_layers(plan: Plan, base: TypedSource) -> None:
    """Raise SettingError where the merge does not have the base's own layers, each made of the same layer of
    every model. Its experts could then be no targets of a calibration.
    """
    # Ranges of layers that are kept follow each other from 0 on, so the end of the last one is their number.
    if not plan.keeps_layers() or any(ranges[-1][1] != count for _, count, ranges in _sliced(plan, base)):
        raise SettingError(
            plan.key,
            "found layers in another order or number than the base's, expected its own: calibration needs "
            "experts with the base's layers; `merge` works",
        )


def _sliced(plan: Plan, base: TypedSource) -> Iterator[tuple[str, int, list[tuple[int, int]]]]:
    """Yield each stack of the base that `slices` make anew, its number of layers, and the ranges that it is
    made of.
    """
    for name, slices in plan.modules.items():
        ranges = [part.base.layers for part in slices if part.base.layers is not None]
        if ranges:
            stack, count = _one_stack(plan.base.key, plan.base.name, base, _members(plan, name, base))
            yield stack, count, ranges


def _inside(plan: Plan, name: str) -> Callable[[str], bool]:
    """Return a function that tells whether a tensor belongs to a module: the one whose name, up to a dot,
    begins the tensor's.

    The longest such name counts. A module of _REST has the tensors of no other.
    """
    rest = next((module for module in _REST if module in plan.modules), None)

    def owner(tensor: str) -> str | None:
        return max(
            (module for module in plan.modules if tensor.startswith(f"{module}.")), key=len, default=rest
        )

    return lambda tensor: owner(tensor) == name


def _members(plan: Plan, name: str, base: TypedSource) -> Callable[[str], bool]:
    """Return the function of `_inside` for a module.

    Raises SettingError for a module without tensors, and for a tensor without a module.
    """
    inside = _inside(plan, name)
    if not any(inside(tensor) for tensor in base.names()):
        raise SettingError(
            ("modules", name),
            "found no tensor that belongs to it, expected the first part of tensors' names, or 'default' "
            "for all the rest",
        )
    lost = [
        tensor for tensor in base.names() if not any(_inside(plan, module)(tensor) for module in plan.modules)
    ]
    if lost:
        raise SettingError(
            ("modules",),
            f"found no module for {lost[0]} ({len(lost)} such tensors), expected the first part of its "
            "name, or 'default'",
        )
    return inside


def _module(
    plan: Plan,
    slices: Sequence[Slice],
    models: Mapping[str, TypedSource],
    inside: Callable[[str], bool],
    dtype: torch.dtype | None,
    vocabulary: Vocabulary | None,
) -> list[TypedSource]:
    """Return the merges of a module's slices, in their order."""
    parts: list[TypedSource] = []
    first = 0
    for part in slices:
        ends = part is slices[0], part is slices[-1]
        views, layers = _views(part, models, inside, first, ends)
        if vocabulary is not None:
            base = (plan.base if plan.counts_base else part.base).location
            views = {location: Aligned(location, views, base, vocabulary) for location in views}
        experts = [views[expert.location] for expert in part.experts]
        parts.append(merged(views[part.base.location], experts, part.settings, dtype, layers))
        first += len(range(*part.base.layers)) if part.base.layers else 0
    return parts


def _views(
    part: Slice,
    models: Mapping[str, TypedSource],
    inside: Callable[[str], bool],
    first: int,
    ends: tuple[bool, bool],
) -> tuple[Mapping[str, TypedSource], Layers | None]:
    """Return the models of a slice by location, each with the tensors that are merged under the names that
    they get, and the layers that these are, or None for all layers of the models.
    """
    views: dict[str, TypedSource] = {}
    layers = None
    for strand in {strand.location: strand for strand in (part.base, *part.experts)}.values():
        model = models[strand.location]
        if strand.layers is None:
            views[strand.location] = Renamed(model, {name: name for name in model.names() if inside(name)})
            continue
        stack = _stack(strand, strand.layers, model, inside)
        views[strand.location] = _view(model, strand.layers, stack, inside, first, ends)
        layers = layers or Layers(
            {stack: len(range(*strand.layers))},
            first,
            tuple(expert.layers[0] for expert in part.experts if expert.layers),
        )
    return views, layers


def _stack(strand: Strand, span: tuple[int, int], model: TypedSource, inside: Callable[[str], bool]) -> str:
    """Return the one stack of layers that a module has in a model, with the layers that the strand asks
    for.
    """
    stack, count = _one_stack((*strand.key, "model"), strand.name, model, inside)
    if span[1] > count:
        raise SettingError(
            (*strand.key, "layer_range"),
            f"found {list(span)}, but {strand.name} has {count} layers, expected at most [0, {count}]",
        )
    return stack


def _one_stack(key: Key, name: str, model: TypedSource, inside: Callable[[str], bool]) -> tuple[str, int]:
    counts = count_layers(tensor for tensor in model.names() if inside(tensor))
    if len(counts) != 1:
        found = f"{len(counts)} stacks of layers ({', '.join(counts)})" if counts else "no layers"
        raise SettingError(
            key,
            f"found {found} in {name}, expected one; `modules` can name the parts of a model that have "
            "layers of their own",
        )
    return next(iter(counts.items()))


def _view(
    model: TypedSource,
    span: tuple[int, int],
    stack: str,
    inside: Callable[[str], bool],
    first: int,
    ends: tuple[bool, bool],
) -> Renamed:
    """Return some layers under the numbers that they get, the first of them `first`.

    `ends` says whether the tensors that stand before all layers, and those that stand after them, come with
    them.
    """
    names = {}
    for name in model.names():
        layer = layer_of(name)
        if not inside(name):
            continue
        if layer is None or stack_of(name) != stack:
            if ends[0] if comes_before(name) else ends[1]:
                names[name] = name
        elif layer in range(*span):
            names[with_layer(name, layer - span[0] + first)] = name
    return Renamed(model, names)
