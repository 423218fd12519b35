"""What a recipe says about a merge: a rule, its numbers, and the numbers of each model."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from epmq_export.errors import RecipeError
from epmq_export.merging.parameters import Parameter, flag, parameter
from epmq_export.nearest import did_you_mean

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Defaults:
    """A rule's own: which parameters it reads, and their values where the recipe has none."""

    scale: float | None
    """lambda; None where the rule has none."""

    normalize: bool
    density: float | None = None
    scale_with_weights: float | None = None
    """lambda where the recipe gives weights: they say the lengths of the task vectors already."""


# Task arithmetic: lambda 0.3 (arXiv 2212.04089) unless the recipe sets weights, as mergekit's files do. TIES: density 0.2 and lambda 1
# (arXiv 2306.01708).
DEFAULTS = {
    "linear": Defaults(scale=None, normalize=True),
    "task_arithmetic": Defaults(scale=0.3, scale_with_weights=1.0, normalize=False),
    "ties": Defaults(scale=1.0, normalize=True, density=0.2),
}
_GLOBAL = ("lambda", "normalize", "weight", "density", "int8_mask")
_MODEL = ("weight", "density")


@dataclass(frozen=True)
class ModelSettings:
    name: str
    """As the recipe names it; for messages."""

    weight: Parameter
    density: Parameter


@dataclass(frozen=True)
class MergeSettings:
    rule: str
    models: tuple[ModelSettings, ...]
    scale: Parameter
    """lambda"""

    normalize: bool


def merge_settings(merge_method: str, parameters: Mapping[str, Any], models: Sequence[tuple[str, Mapping[str, Any]]]) -> MergeSettings:
    """The settings of a recipe's `merge_method`, its `parameters`, and each model's name with its `parameters`, in order.

    A model's own value goes before the recipe's, and that before the rule's default, tensor by tensor. RecipeError for an unknown
    rule or parameter, with the nearest valid name, and for a value of the wrong kind.
    """
    if merge_method not in DEFAULTS:
        raise RecipeError(f"merge_method is {merge_method!r}, expected one of {', '.join(DEFAULTS)}{did_you_mean(str(merge_method), DEFAULTS)}")
    if not models:
        raise RecipeError("models is empty, expected one or more experts to merge")
    defaults = DEFAULTS[merge_method]
    _check_names("parameters", parameters, _GLOBAL)
    for name, own in models:
        _check_names(f"parameters of {name}", own, _MODEL)
    for key, read in (("lambda", defaults.scale), ("density", defaults.density)):
        if read is None and (key in parameters or any(key in own for _, own in models)):
            log.warning("%s: %s has no effect", merge_method, key)
    weighted = "weight" in parameters or any("weight" in own for _, own in models)
    scale = (defaults.scale_with_weights if weighted else None) or defaults.scale or 1.0
    settings = MergeSettings(
        merge_method,
        tuple(
            ModelSettings(
                name,
                parameter(f"weight of {name}", [own.get("weight"), parameters.get("weight")], 1.0),
                parameter(f"density of {name}", [own.get("density"), parameters.get("density")], defaults.density or 1.0),
            )
            for name, own in models
        ),
        parameter("lambda", [parameters.get("lambda") if defaults.scale is not None else None], scale),
        flag("normalize", parameters.get("normalize", defaults.normalize)),
    )
    for model in settings.models:
        if not all(0 <= value <= 1 for value in model.density.values):
            raise RecipeError(f"density of {model.name} is {_outside(model.density.values)}, expected a share from 0 to 1")
        if merge_method == "ties" and settings.normalize and min(model.weight.values) < 0:
            raise RecipeError(f"weight of {model.name} is {min(model.weight.values)}, expected 0 or more: ties divides by the weights that agree")
    return settings


def _check_names(where: str, given: Mapping[str, Any], valid: Sequence[str]) -> None:
    for key in given:
        if key not in valid:
            raise RecipeError(f"{where}: {key!r} is unknown, expected one of {', '.join(valid)}{did_you_mean(str(key), valid)}")


def _outside(values: Sequence[float]) -> float:
    return next(value for value in values if not 0 <= value <= 1)
