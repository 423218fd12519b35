"""The settings that a recipe gives a merge: a rule, the convention that it follows, its numbers, and the
numbers of each model.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from epmq_export.errors import SettingError, did_you_mean
from epmq_export.merging.parameters import Level, Parameter, parameter

log = logging.getLogger(__name__)

CONVENTIONS = ("paper", "mergekit")
# Parameters of mergekit for the masks of its rules. Here masks are never kept, so these change nothing.
_NO_EFFECT = ("int8_mask",)


@dataclass(frozen=True)
class Number:
    """A parameter that a rule reads, as the rule's own file declares it."""

    default: float | None = None
    """The value where the recipe gives none. None: the recipe must give one."""

    mergekit: float | None = None
    """The default under mergekit's convention, where it differs."""

    weighted: float | None = None
    """The default where the recipe sets weights, where it differs."""

    by_model: bool = False
    """Whether each model may have its own value."""

    least: float = -inf
    most: float = inf
    whole: bool = False
    flag: bool = False

    def default_for(self, convention: str, weighted: bool) -> float | None:
        """Return the default under a convention, for a recipe that sets weights or does not."""
        if convention == "mergekit" and self.mergekit is not None:
            return self.mergekit
        return self.weighted if weighted and self.weighted is not None else self.default

    def check(self, where: str, found: Parameter) -> None:
        """Raise SettingError, its sentence beginning with `where`, for a value out of range."""
        for entry in found.entries:
            for value in entry.gradient:
                if not self.least <= value <= self.most or (self.whole and value != int(value)):
                    raise SettingError(entry.key, f"{where} is {value:g}, expected {self._expected()}")

    def _expected(self) -> str:
        kind = (
            "a whole number" if self.whole else "a share" if (self.least, self.most) == (0, 1) else "a number"
        )
        return (
            f"{kind} from {self.least:g} to {self.most:g}"
            if self.most < inf
            else f"{kind} of at least {self.least:g}"
        )


def flag(default: bool, mergekit: bool | None = None) -> Number:
    """Return a parameter that is true or false."""
    return Number(float(default), None if mergekit is None else float(mergekit), flag=True)


@dataclass(frozen=True)
class ModelSettings:
    """The settings of one model of a merge."""

    name: str
    """The name that the recipe gives it."""

    numbers: Mapping[str, Parameter]
    """The numbers that may differ by model."""


@dataclass(frozen=True)
class MergeSettings:
    """The settings of a merge."""

    rule: str
    convention: str
    """One of CONVENTIONS: which is followed where a rule's paper and mergekit disagree."""

    models: tuple[ModelSettings, ...]
    numbers: Mapping[str, Parameter]
    """The numbers that are the same for all models."""


def read_settings(
    rule: str,
    declared: Mapping[str, Number],
    others: Collection[str],
    convention: str,
    levels: Sequence[Level],
    models: Sequence[tuple[str, Level]],
    weighted: bool,
) -> MergeSettings:
    """Return the settings of a rule that declares its numbers, from levels and models as `merge_settings`
    takes them.

    `others` are the names that some other rule reads. A model's own value goes before those of the levels,
    and these go before the rule's default, tensor by tensor. Raises SettingError for an unknown name, with
    the nearest valid one, and for a value of the wrong kind or out of range.
    """
    _check_names("parameters", rule, levels, declared, others)
    by_model = {key: number for key, number in declared.items() if number.by_model}
    for name, own in models:
        _check_names(f"parameters of {name}", rule, [own], by_model, others)
    every = [*levels, *(own for _, own in models)]
    weighted = weighted or any("weight" in level.parameters for level in every)

    def read(key: str, number: Number, where: str, levels: Sequence[Level]) -> Parameter:
        found = parameter(where, key, levels, number.default_for(convention, weighted), number.flag)
        number.check(where, found)
        return found

    return MergeSettings(
        rule=rule,
        convention=convention,
        models=tuple(
            ModelSettings(
                name,
                {
                    key: read(key, number, f"{key} of {name}", [own, *levels])
                    for key, number in by_model.items()
                },
            )
            for name, own in models
        ),
        numbers={
            key: read(key, number, key, levels) for key, number in declared.items() if key not in by_model
        },
    )


def _check_names(
    where: str, rule: str, levels: Sequence[Level], valid: Collection[str], others: Collection[str]
) -> None:
    places = {key: level.place(key) for level in reversed(levels) for key in level.parameters}
    for key in dict.fromkeys(key for level in levels for key in level.parameters):
        if key in _NO_EFFECT:
            log.info("%s: %s changes nothing: masks are not kept, and sums are float32", where, key)
            continue
        if key in valid:
            continue
        if key not in others:
            raise SettingError(
                places[key],
                f"found a parameter that {rule} does not have, expected "
                f"{_one_of(valid)}{did_you_mean(str(key), valid)}",
            )
        log.warning("%s: %s has no effect on %s", where, key, rule)


def _one_of(names: Collection[str]) -> str:
    return f"one of {', '.join(names)}" if names else "none"
