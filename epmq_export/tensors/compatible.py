"""Checks that an expert is a fine-tune of the base: the same tensors and the same vocabulary."""

import json
import logging
from filecmp import cmp
from pathlib import Path
from typing import Any

from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.tensors.source import TypedSource

log = logging.getLogger(__name__)
SHOWN = 5
_TOKENIZER = "tokenizer.json"


def require_fit(base: TypedSource, expert: TypedSource, name: str) -> None:
    """Raise InputError, with the first differences, unless the expert has the floating tensors of the base,
    each in the base's shape, and no others.

    Integer tensors (position indices) are those of the base, and the expert may lack them. Both sides must be
    under canonical names. `name` is the expert's name in the message. Only headers are read.
    """
    differences = []
    ours, theirs = set(base.names()), set(expert.names())
    for tensor in sorted(ours | theirs):
        if tensor not in theirs:
            if base.dtype(tensor).is_floating_point:
                differences.append(f"{tensor} is missing")
        elif tensor not in ours:
            if expert.dtype(tensor).is_floating_point:
                differences.append(f"{tensor} is not in the base")
        elif base.dtype(tensor).is_floating_point != expert.dtype(tensor).is_floating_point:
            differences.append(f"{tensor} is {_plain(expert, tensor)}, the base's is {_plain(base, tensor)}")
        elif base.dtype(tensor).is_floating_point and base.shape(tensor) != expert.shape(tensor):
            differences.append(
                f"{tensor} has shape {_shape(expert, tensor)}, the base's has "
                f"{_shape(base, tensor)}{_hint(base, expert, tensor)}"
            )
    if differences:
        raise InputError(f"{name} does not fit the base: {_first(differences)}")


def require_same_vocabulary(base: Path, expert: Path, name: str) -> None:
    """Raise InputError, with the first differences, where the tokenizers of two model directories give a
    token different ids.

    Compares tokenizer.json, or vocab.txt where there is none. An expert with neither (an adapter without its
    tokenizer) uses those of the base. `name` is the expert's name in the message.
    """
    ours, theirs = _vocabulary(base), _vocabulary(expert)
    if ours is None or theirs is None:
        log.info("%s: no tokenizer to compare with the base's; taking the base's", name)
        return
    # One file may hold a token in its vocabulary, the other among its added tokens. Only the id counts.
    tokens, ours, theirs = ours.keys() | theirs.keys(), _added(base) | ours, _added(expert) | theirs
    differing = sorted(token for token in tokens if ours.get(token) != theirs.get(token))
    if differing:
        found = [
            f"token {token!r} is {theirs.get(token, 'absent')}, the base's is {ours.get(token, 'absent')}"
            for token in differing
        ]
        raise InputError(f"{name} has another vocabulary than the base: {_first(found)}")


def own_tokens(base: Path, expert: Path) -> list[str]:
    """Return the tokens that were added to an expert's tokenizer and that the base's has not; none where the
    base has no tokenizer.
    """
    files = base / _TOKENIZER, expert / _TOKENIZER
    if all(file.exists() for file in files) and cmp(*files, shallow=False):
        return []  # Most are equal, and some take a second to read.
    theirs = _added(expert)
    vocabulary = _vocabulary(base) if theirs else None
    if vocabulary is None:
        return []
    ours = vocabulary.keys() | _added(base).keys()
    return [token for token in theirs if not {token, json.dumps(token)} & ours]


def _vocabulary(directory: Path) -> dict[str, Any] | None:
    """Return the id of each token, or None where the directory has no vocabulary."""
    path = directory / _TOKENIZER
    if path.exists():
        tokenizer = read_json(path)
        model = tokenizer.get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocabulary, dict):
            tokens = dict(vocabulary)
        elif isinstance(vocabulary, list):  # A Unigram tokenizer has pairs of token and score.
            tokens = {
                json.dumps(entry[0] if isinstance(entry, list) and entry else entry): index
                for index, entry in enumerate(vocabulary)
            }
        else:
            raise InputError(
                f"{path}: model.vocab is a {type(vocabulary).__name__}, expected an object or a list"
            )
        return tokens
    path = directory / "vocab.txt"
    if path.exists():
        try:
            text = path.read_text(encoding="utf-8")  # The lines may end as Windows ends them.
        except ValueError as error:
            raise InputError(f"{path}: not UTF-8 ({error})") from None
        # No text has an empty token, so lines that are empty at the end are none.
        return {token: index for index, token in enumerate(text.rstrip("\n").split("\n"))}
    return None


def _added(directory: Path) -> dict[str, Any]:
    """Return the id of each added token of tokenizer.json."""
    path = directory / _TOKENIZER
    entries = read_json(path).get("added_tokens") if path.exists() else None
    return (
        {str(entry.get("content")): entry.get("id") for entry in entries if isinstance(entry, dict)}
        if isinstance(entries, list)
        else {}
    )


def _plain(source: TypedSource, tensor: str) -> str:
    return str(source.dtype(tensor)).removeprefix("torch.")


def _shape(source: TypedSource, tensor: str) -> str:
    return str(list(source.shape(tensor)))


def _hint(base: TypedSource, expert: TypedSource, tensor: str) -> str:
    """Return a guess at why the shapes of a tensor differ, or an empty string."""
    ours, theirs = base.shape(tensor), expert.shape(tensor)
    if 0 in theirs:
        return " (it holds nothing, as DeepSpeed ZeRO-3 saves what it has not gathered)"
    return " (another vocabulary?)" if "embed" in tensor and len(ours) == 2 and ours[1:] == theirs[1:] else ""


def _first(differences: list[str]) -> str:
    more = f"; and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    return "; ".join(differences[:SHOWN]) + more
