"""The keys of a recipe that say what is merged: `models`, or mergekit's `slices` and `modules`, and whose
tokenizer the merge gets.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

from epmq_export.merging.tokens import TokenEntry, TokenRow
from epmq_export.recipe.values import ModelName, Name, Parameters, RecipePart, model_name, shown


def _range(value: list[int]) -> list[int]:
    if len(value) != 2 or value[0] >= value[1]:
        raise ValueError(
            f"found {shown(value) if len(value) != 2 else value}, expected [first, last + 1], such as [0, 16]"
        )
    return value


class RecipeModel(RecipePart):
    """One entry of `models`."""

    model: ModelName
    parameters: Parameters = {}
    """The parameters as written: scalars, lists, or lists of {filter, value}. The merge rule interprets
    them.
    """


class RecipeSource(RecipePart):
    """Some layers of one model."""

    model: ModelName
    layer_range: Annotated[list[Annotated[int, Field(ge=0)]], AfterValidator(_range)]
    """The first layer, and the one after the last."""

    parameters: Parameters = {}


class RecipeSlice(RecipePart):
    """Some layers of the merge, made of as many layers of each source."""

    sources: list[RecipeSource] = Field(min_length=1)
    base_model: ModelName | None = None
    """The base of these layers alone, instead of the recipe's."""

    parameters: Parameters = {}

    @field_validator("sources")
    @classmethod
    def _as_long(cls, sources: list[RecipeSource]) -> list[RecipeSource]:
        lengths = [source.layer_range[1] - source.layer_range[0] for source in sources]
        if len(set(lengths)) > 1:
            raise ValueError(
                f"found sources of {' and '.join(map(str, lengths))} layers, expected the same number of each"
            )
        return sources


class RecipeModule(RecipePart):
    """A part of a model that has layers of its own, such as an encoder or a decoder."""

    models: list[RecipeModel] = []
    slices: list[RecipeSlice] = []
    parameters: Parameters = {}

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if bool(self.models) == bool(self.slices):
            raise ValueError(
                f"found {'both models and slices' if self.models else 'neither models nor slices'}, "
                "expected one of them"
            )
        return self


def _row(value: object, info: ValidationInfo) -> object:
    """Return a model, a row of a model, "zero", or None for mergekit's own choice."""
    if value is None:
        return None
    if isinstance(value, str):
        return model_name(value, info)
    expected = "expected a model, {kind: zero}, or {kind: model_token, model: ..., token: ...} (or token_id)"
    if not isinstance(value, dict):
        raise ValueError(f"found {shown(value)}, {expected}")
    match sorted(value.items()):
        case [("kind", "zero")]:
            return "zero"
        case [("kind", "model_token"), ("model", str(model)), ("token", str(token))]:
            return TokenRow(model_name(model, info), token)
        case [("kind", "model_token"), ("model", str(model)), ("token_id", int(token))] if (
            token >= 0 and not isinstance(token, bool)
        ):
            return TokenRow(model_name(model, info), token)
    raise ValueError(
        f"found {', '.join(f'{key} {shown(item)}' for key, item in value.items()) or 'an empty mapping'}, "
        f"{expected}"
    )


class RecipeToken(RecipePart):
    """An entry of `tokenizer.tokens`: the row of the embeddings that a model without the token takes for
    it.
    """

    source: Annotated[str | TokenRow | None, PlainValidator(_row)] = None
    force: bool = False
    """Whether the models that have the token take this row as well."""


class RecipeTokenizer(RecipePart):
    """The tokenizer that the merge gets, and the rows of single tokens."""

    source: Name = "union"
    tokens: dict[str, RecipeToken] = {}
    pad_to_multiple_of: Annotated[int, Field(ge=1)] | None = None

    def entries(self, location: Callable[[str], str]) -> Mapping[str, TokenEntry]:
        """Return the settings of each token, with models by their locations."""

        def located(source: str | TokenRow | None) -> str | TokenRow | None:
            if isinstance(source, TokenRow):
                return TokenRow(location(source.model), source.token)
            return location(source) if source not in (None, "zero") else source

        return {token: TokenEntry(located(each.source), each.force) for token, each in self.tokens.items()}
