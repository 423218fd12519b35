"""Small models for tests of merging, and merges of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from epmq_export.merging.merged import Merged, merged
from epmq_export.merging.parameters import Level
from epmq_export.merging.registry import RULES, merge_settings
from epmq_export.merging.settings import MergeSettings
from tests.tiny.in_memory import InMemory

Model = dict[str, Tensor]
Vector = NDArray[np.float64]
SHAPES = {
    "embeddings.weight": (5, 3),
    "encoder.layer.0.weight": (4, 4),
    "encoder.layer.1.bias": (7,),
    "scalar": (),
}
SIZE = sum(int(np.prod(shape)) for shape in SHAPES.values())
NUMBERS = st.lists(st.integers(-6, 6), min_size=SIZE, max_size=SIZE)
WEIGHTS = st.sampled_from([0.25, 0.5, 1.0, 1.0, 2.0])


def model(numbers: Sequence[float], dtype: torch.dtype = torch.float32) -> Model:
    """Return a model of SHAPES with these numbers, in eighths."""
    pieces = (
        torch.tensor(numbers, dtype=torch.float64)
        .div(8)
        .to(dtype)
        .split([int(np.prod(shape)) for shape in SHAPES.values()])
    )
    return {name: piece.reshape(shape) for (name, shape), piece in zip(SHAPES.items(), pieces, strict=True)}


def flat(tensors: Mapping[str, Tensor]) -> Vector:
    """Return a model's numbers in one row, float64."""
    return np.concatenate([tensors[name].double().numpy().reshape(-1) for name in sorted(SHAPES)])


def needed(rule: str) -> dict[str, float]:
    """Return a value for each parameter of a rule that has no default."""
    return {name: 0.5 for name, number in RULES[rule].parameters.items() if number.default is None}


def settings_of(
    rule: str,
    parameters: Mapping[str, Any] | None = None,
    models: Sequence[tuple[str, Mapping[str, Any]]] = (("a", {}),),
    convention: str = "paper",
) -> MergeSettings:
    """Return the settings of a recipe with `models`, by name and with their own parameters."""
    own = [
        (name, Level(numbers, ("models", index, "parameters")))
        for index, (name, numbers) in enumerate(models)
    ]
    return merge_settings(rule, [Level(parameters or {})], own, convention)


def merge(
    rule: str,
    base: Model,
    experts: Sequence[Model],
    parameters: Mapping[str, Any] | None = None,
    own: Sequence[Mapping[str, Any]] | None = None,
    convention: str = "paper",
) -> Merged:
    """Return a merge of experts, which are called `expert 0` and so on."""
    models = [(f"expert {index}", own[index] if own else {}) for index in range(len(experts))]
    settings = settings_of(rule, {**needed(rule), **(parameters or {})}, models, convention)
    return merged(InMemory(base), [InMemory(expert) for expert in experts], settings)


def values(source: Merged) -> Vector:
    return flat({name: source.load(name) for name in source.names()})


@st.composite
def merges(draw: st.DrawFn) -> tuple[Model, list[Model], list[float]]:
    """Draw a base, its experts, and a weight for each."""
    base = draw(NUMBERS)
    count = draw(st.integers(1, 4))
    kinds = st.one_of(
        NUMBERS, st.just(base), st.just([2 * number for number in base]), st.just([0] * SIZE)
    )  # base, base: all task vectors zero
    experts = [draw(kinds) for _ in range(count)]
    return model(base), [model(expert) for expert in experts], [draw(WEIGHTS) for _ in range(count)]


def tensors(tensors: Model) -> dict[str, Vector]:
    """Return each tensor of a model flattened, in float64."""
    return {name: tensors[name].double().numpy().reshape(-1) for name in sorted(SHAPES)}


def joined(pieces: dict[str, Vector]) -> Vector:
    """Return flattened tensors as `flat` does those of a model."""
    return np.concatenate([pieces[name] for name in sorted(SHAPES)])
