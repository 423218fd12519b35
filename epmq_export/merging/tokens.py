"""What a merge says of single tokens of its vocabulary."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TokenRow:
    """A row of one model's embeddings."""

    model: str
    token: str | int
    """The token, or its id."""


@dataclass(frozen=True)
class TokenEntry:
    """What a model that lacks a token takes for its row of the embeddings."""

    source: str | TokenRow | None = None
    """A model, whose own row of the token it is; a row of one; "zero"; or None for what the models that have
    the token say.
    """

    force: bool = False
    """Whether it is for the models that have the token, too."""
