"""The settings of single tokens of a merge's vocabulary."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenRow:
    """A row of one model's embeddings."""

    model: str
    token: str | int
    """The token, or its id."""


@dataclass(frozen=True)
class TokenEntry:
    """The row of the embeddings that a model without a token takes for it."""

    source: str | TokenRow | None = None
    """A model, for its own row of the token; a row of a model; "zero"; or None for the rows of the models
    that have the token.
    """

    force: bool = False
    """Whether the models that have the token take this row as well."""
