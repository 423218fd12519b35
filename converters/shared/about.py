"""What docs/recipe.md says of the models of a family; the table there is made of these records."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class About:
    """A row of the table of families, in the page's own words. By default it has what the row above has."""

    models: str
    """The names that people know the models by."""

    kinds: tuple[str, ...]
    """Each `model_type` that the row is of."""

    modules: bool = False
    """Whether sentence-transformers' modules stand beside the models, which are others without these."""

    calibrated: str = "the same"
    """The tensors that are calibrated."""

    kept: str = "the same"
    """The tensors that stay as the merge has them."""

    output: str = "the same"
    """The output that tasks read."""
