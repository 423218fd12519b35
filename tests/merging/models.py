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
from tests.merging.sources import InMemory

Model = dict[str, Tensor]
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
    pieces = (
        torch.tensor(numbers, dtype=torch.float64)
        .div(8)
        .to(dtype)
        .split([int(np.prod(shape)) for shape in SHAPES.values()])
    )
    return {name: piece.reshape(shape) for (name, shape), piece in zip(SHAPES.items(), pieces, strict=True)}


def flat(tensors: Mapping[str, Tensor]) -> NDArray[np.float64]:
    return np.concatenate([tensors[name].double().numpy().reshape(-1) for name in sorted(SHAPES)])


def needed(rule: str) -> dict[str, float]:
    """A value for each parameter of a rule that has no default."""
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
    """Experts are called `expert 0` and so on."""
    models = [(f"expert {index}", own[index] if own else {}) for index in range(len(experts))]
    settings = settings_of(rule, {**needed(rule), **(parameters or {})}, models, convention)
    return merged(InMemory(base), [InMemory(expert) for expert in experts], settings)


def values(source: Merged) -> NDArray[np.float64]:
    return flat({name: source.load(name) for name in source.names()})
