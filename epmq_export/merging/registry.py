"""All rules by their names, and a recipe's settings for one of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from epmq_export.errors import RecipeError, did_you_mean
from epmq_export.merging.rule import Rule
from epmq_export.merging.rules import (
    breadcrumbs,
    dare,
    della,
    isotropic,
    karcher,
    linear,
    model_stock,
    passthrough,
    slerp,
    task_arithmetic,
    ties,
    tsvm,
    wudi,
)
from epmq_export.merging.settings import CONVENTIONS, MergeSettings, read_settings

# mergekit's rules have mergekit's names.
RULES: dict[str, Rule] = {
    **linear.RULES,
    **task_arithmetic.RULES,
    **ties.RULES,
    **dare.RULES,
    **della.RULES,
    **breadcrumbs.RULES,
    **slerp.RULES,
    **karcher.RULES,
    **model_stock.RULES,
    **tsvm.RULES,
    **isotropic.RULES,
    **wudi.RULES,
    **passthrough.RULES,
}
_NAMES = {name for rule in RULES.values() for name in rule.parameters}


def merge_settings(
    merge_method: str,
    parameters: Mapping[str, Any],
    models: Sequence[tuple[str, Mapping[str, Any]]],
    convention: str = "paper",
    weighted: bool = False,
) -> MergeSettings:
    """The settings of a recipe's `merge_method`, its `parameters`, each model's name with its `parameters`,
    in order, and its `merge_convention`. `weighted`: the recipe sets weights, if not here then in another of
    its slices or modules.

    A model's own value goes before the recipe's, and that before the rule's default, tensor by tensor.
    RecipeError for an unknown rule or parameter, with the nearest valid name, for a value of the wrong kind
    or out of range, and for too few or too many models.
    """
    rule = RULES.get(merge_method)
    if rule is None:
        raise RecipeError(
            f"merge_method is {merge_method!r}, expected one of "
            f"{', '.join(RULES)}{did_you_mean(str(merge_method), RULES)}"
        )
    if convention not in CONVENTIONS:
        raise RecipeError(
            f"merge_convention is {convention!r}, expected one of "
            f"{', '.join(CONVENTIONS)}{did_you_mean(convention, CONVENTIONS)}"
        )
    if not models:
        raise RecipeError("models is empty, expected one or more experts to merge")
    fewest, most = rule.experts
    if len(models) < fewest or (most is not None and len(models) > most):
        expected = (
            f"at least {fewest}" if most is None else f"{fewest} or {most}" if fewest != most else str(fewest)
        )
        raise RecipeError(f"models has {len(models)} experts, expected {expected} for {merge_method}")
    settings = read_settings(merge_method, rule.parameters, _NAMES, convention, parameters, models, weighted)
    rule.check(settings)
    return settings
