"""Conversations: samples that are lists of messages, as data sets to fine-tune chat models have them."""

from collections.abc import Mapping
from typing import Any

from epmq_export.data.text_rows import Text
from epmq_export.errors import InputError
from epmq_export.files import encodable

COLUMN = "messages"
"""The column that is taken for conversations where none of texts is there."""


def conversation(value: list[Any], place: str, column: str) -> Text:
    """Return a list of messages as a sample. Raises InputError where it is none: a message has a `role` and a
    `content`, which are texts, and perhaps more that a chat template knows.
    """
    if not value:
        raise InputError(f"{place}: found no message in the column {column}, expected at least one")
    return Text(place, {}, tuple(_message(each, f"{place}: message {i}") for i, each in enumerate(value)))


def _message(value: object, place: str) -> Mapping[str, Any]:
    """Return a message without the keys that say nothing, which tables have where other rows have them."""
    if not isinstance(value, dict):
        raise InputError(f"{place}: found a {type(value).__name__}, expected {{role: ..., content: ...}}")
    for key in ("role", "content"):
        found = value.get(key)
        if not isinstance(found, str) or not encodable(found):
            told = (
                f"the keys {', '.join(map(str, value))}"[:120]
                if key not in value
                else f"a {key} that is none"
            )
            raise InputError(f"{place}: found {told}, expected a text as {key}")
    return {str(key): part for key, part in value.items() if part is not None}


def is_conversations(kind: Any) -> bool:  # noqa: ANN401 - of pyarrow, which has no types
    """Return whether a pyarrow type is a list of messages."""
    import pyarrow.types as kinds

    listed = kinds.is_list(kind) or kinds.is_large_list(kind)
    return bool(listed and kinds.is_struct(kind.value_type)) and {"role", "content"} <= {
        field.name for field in kind.value_type
    }
