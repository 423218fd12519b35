"""An index for packed checkpoints that tests write."""

from typing import Any

from epmq_export.tensors.packed_index import PackedIndex


def an_index(family: str = "none", **parts: Any) -> PackedIndex:
    """Return an index with nothing in it but the family and what is given."""
    given: dict[str, Any] = {"method": {}, "recipe": {}, "inputs": [], "versions": {}, **parts}
    return PackedIndex(family=family, **given)
