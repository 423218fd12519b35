"""All rules by their names, and a recipe's settings for one of them."""

from collections.abc import Sequence
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from epmq_export.errors import Key, SettingError, did_you_mean
from epmq_export.merging import rules
from epmq_export.merging.parameters import Level
from epmq_export.merging.rule import Rule
from epmq_export.merging.settings import CONVENTIONS, MergeSettings, read_settings


def rules_in(package: ModuleType) -> dict[str, Rule]:
    """Return the `RULES` of every module that lies right in a package, sorted by name.

    Raises ValueError where two modules have a rule of the same name.
    """
    found: dict[str, Rule] = {}
    for module in iter_modules(package.__path__, f"{package.__name__}."):
        if not module.ispkg:
            own: dict[str, Rule] = import_module(module.name).RULES
            if twice := found.keys() & own.keys():
                raise ValueError(f"{module.name}: found the rules {sorted(twice)} again, expected new names")
            found |= own
    return dict(sorted(found.items()))


# mergekit's rules have mergekit's names.
RULES = rules_in(rules)
_NAMES = {name for rule in RULES.values() for name in rule.parameters}


def merge_settings(
    merge_method: str,
    levels: Sequence[Level],
    models: Sequence[tuple[str, Level]],
    convention: str = "paper",
    *,
    weighted: bool = False,
    key: Key = ("models",),
) -> MergeSettings:
    """Return the settings of a rule for models: the name of each, with its own parameters, in order.

    `levels` are one or more, the nearest to the models first. A model's own value goes before theirs, and
    these before the rule's default, tensor by tensor. `weighted` says that the recipe sets weights, if not
    here then in another of its slices or modules; `key` is where it names the models. Raises SettingError for
    an unknown rule or parameter, with the nearest valid name, for a value of the wrong kind or out of range,
    and for too few or too many models.
    """
    rule = RULES.get(merge_method)
    if rule is None:
        raise SettingError(
            ("merge_method",),
            f"found {merge_method!r}, expected one of "
            f"{', '.join(RULES)}{did_you_mean(str(merge_method), RULES)}",
        )
    if convention not in CONVENTIONS:
        raise SettingError(
            ("merge_convention",),
            f"found {convention!r}, expected one of "
            f"{', '.join(CONVENTIONS)}{did_you_mean(convention, CONVENTIONS)}",
        )
    if not models:
        raise SettingError(key, "found no expert, expected one or more to merge")
    fewest, most = rule.experts
    if len(models) < fewest or (most is not None and len(models) > most):
        expected = (
            f"at least {fewest}" if most is None else f"{fewest} or {most}" if fewest != most else str(fewest)
        )
        raise SettingError(key, f"found {len(models)} experts, expected {expected} for {merge_method}")
    settings = read_settings(merge_method, rule.parameters, _NAMES, convention, levels, models, weighted)
    rule.check(settings)
    return settings
