"""Whether two models count the positions of tokens from the same row."""

from pathlib import Path

from converters.bert.names import COUNTED
from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.tensors.directory import CONFIG

# What the library takes where a config of these kinds does not say it.
_PADDING = 1


def require_same_positions(base: Path, expert: Path, name: str) -> list[str]:
    """Return nothing to be told. Raises InputError where the positions of a base of RoBERTa's kinds begin at
    another row than the expert's, since each begins behind the row of its padding token.
    """
    if not all((place / CONFIG).is_file() for place in (base, expert)):
        return []
    ours, theirs = read_json(base / CONFIG), read_json(expert / CONFIG)
    one, other = (config.get("pad_token_id", _PADDING) for config in (ours, theirs))
    if ours.get("model_type") in COUNTED and one != other:
        raise InputError(
            f"{expert / CONFIG}: found pad_token_id {other!r} (the base: {one!r}), expected the same: "
            "positions are counted from it"
        )
    return []
