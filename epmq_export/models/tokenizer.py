"""The tokenizer of a model directory.

tokenizer.json says how texts become ids: runtimes other than transformers read nothing else, and GGUF's
vocabulary is made of it. transformers may know better by the model's type (of `qwen2`, it replaces the way to
split a text by Qwen's) and then gives other ids than the file. So the file is followed, and where even that
does not help, the directory is refused.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from epmq_export.errors import InputError, first_line
from epmq_export.files import read_json, refuse_pointer, sha256
from epmq_export.models.classifiers import CLASSES
from epmq_export.models.hard_texts import hard_to_split
from epmq_export.tensors.directory import PACKED_INDEX, PACKED_SHARD_INDEX, SHARD_INDEX

log = logging.getLogger(__name__)

TOKENIZER, SETTINGS, TOKENS = "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"
# Classes that need a package for what tokenizer.json says without it.
_NEEDLESS = ("SiglipTokenizer",)
# Version 5 of transformers has a new name for the class of a tokenizer that is tokenizer.json alone. Both
# versions know the old name.
_NEW_CLASS, CLASS = "TokenizersBackend", "PreTrainedTokenizerFast"
# Version 5 lists special tokens without a role under a key that has to be an object in version 4. Both know
# the old key.
_NEW_LIST, _LIST = "extra_special_tokens", "additional_special_tokens"

# The endings of files that a tokenizer may be read from, and those of such files that none is.
_ENDINGS = ("json", "txt", "model", "jinja", "spm", "tiktoken", "vocab")
_OTHERS = frozenset({PACKED_INDEX, PACKED_SHARD_INDEX, SHARD_INDEX, CLASSES, "generation_config.json"})

_shared: WeakValueDictionary[str, PreTrainedTokenizerBase] = WeakValueDictionary()
"""The tokenizers that somebody has open, by what they were read from."""

_last: list[PreTrainedTokenizerBase] = []
"""The one that was asked for last, for those who open the same one again and again."""


@contextmanager
def no_panic() -> Iterator[None]:
    """Raise a panic of the library tokenizers as a ValueError with what it says. It is none of Python's
    Exceptions, and a tokenizer.json that its parser accepts may lead to one.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"the library tokenizers gives up: {first_line(error)}") from None


def fast_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer, which gives the ids of tokenizer.json where that is there. It is shared
    (`shared_tokenizer`).

    Raises InputError where there is none that has a vocabulary.
    """
    # The library would take the lines of such a vocab.txt for tokens.
    for path in sorted(path for ending in ("json", "txt", "model") for path in directory.glob(f"*.{ending}")):
        refuse_pointer(path, "the tokenizer cannot be read")
    try:
        tokenizer = shared_tokenizer(directory)
    except InputError:
        raise
    except Exception as error:  # the library raises whatever its parsers raise
        why = " ".join(str(error).split())
        raise InputError(f"{directory}: its tokenizer cannot be read ({why})") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(
            f"{directory}: found a {type(tokenizer).__name__}, expected a fast tokenizer (tokenizer.json "
            "or vocab.txt)"
        )
    # The library makes an empty one where it finds no vocabulary, or, of T5's class, one of its own.
    files = sorted({*type(tokenizer).vocab_files_names.values(), TOKENIZER})
    held = any((directory / name).is_file() for name in files)
    if not held or len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(f"{directory}: found no vocabulary, expected {' or '.join(files)}")
    return tokenizer


def shared_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer as `open_tokenizer` does, the same one for all directories with the same files, so
    that nobody may change it: to read one of 250,000 tokens takes seconds, and a command asks for a model's
    many times.
    """
    content = _content(directory)
    found = _shared.get(content)
    if found is None:
        found = _shared[content] = open_tokenizer(directory)
    elif isinstance(found, PreTrainedTokenizerFast):
        # What pads and cuts texts stays as the last call has set it.
        found.backend_tokenizer.no_padding()
        found.backend_tokenizer.no_truncation()
    _last[:] = [found]
    return found


def _content(directory: Path) -> str:
    """Return the hex SHA-256 of all files that a tokenizer may be read from, with their names."""
    whole = hashlib.sha256()
    places = {path for ending in _ENDINGS for path in directory.glob(f"*.{ending}")}
    for path in sorted({*places, *directory.glob("*/*.jinja")}):
        if path.is_file() and path.name not in _OTHERS:
            whole.update(f"{path.relative_to(directory)} {sha256(path)}\n".encode())
    return whole.hexdigest()


@no_panic()
def open_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer, read anew, as transformers reads it, unless it gives other ids than
    tokenizer.json: then as that file says. Whatever transformers raises is raised.

    Raises InputError where both readings give other ids.
    """
    path, settings = directory / TOKENIZER, directory / SETTINGS
    named = json.loads(settings.read_text("utf-8")).get("tokenizer_class") if settings.is_file() else None
    library = PreTrainedTokenizerFast if named in _NEEDLESS and path.is_file() else AutoTokenizer
    tokenizer: PreTrainedTokenizerBase = library.from_pretrained(
        directory, use_fast=True, local_files_only=True
    )
    if not path.is_file() or not isinstance(tokenizer, PreTrainedTokenizerFast):
        return tokenizer
    file = _as_it_stands(path)
    if (found := _first_difference(tokenizer, file, hard_to_split())) is None:
        return tokenizer
    by_file: PreTrainedTokenizerBase = PreTrainedTokenizerFast.from_pretrained(
        directory, local_files_only=True
    )
    # What its settings call special tokens the library adds to any tokenizer.
    known = file.get_vocab(with_added_tokens=True)
    lacking = sorted(token for token in by_file.get_added_vocab() if token not in known)
    texts = [text for text in hard_to_split() if not any(token in text for token in lacking)]
    if (still := _first_difference(by_file, file, texts)) is not None:
        raise InputError(f"{path}: {still}, expected one way to read it")
    if lacking:
        _tell(
            f"{path}: it does not have {', '.join(map(repr, lacking))}, which {SETTINGS} or {TOKENS} calls "
            "special: only transformers finds it in a text"
        )
    if _first_difference(tokenizer, file, texts) is not None:
        _tell(f"{path}: {found}; the file is followed")
    return by_file


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write the tokenizer's files as version 4 of transformers can read them, too.

    Raises InputError for a chat template whose name is none of a file.
    """
    for name in tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else ():
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise InputError(
                f"{directory}: found a chat template named {name!r}, expected letters, digits and underscores"
            )
    tokenizer.save_pretrained(directory)
    path = directory / SETTINGS
    settings = for_every_version(read_json(path))
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def for_every_version(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a tokenizer_config.json that version 5 of transformers wrote as version 4 can
    read it, too.
    """
    found = dict(settings)
    if found.get("tokenizer_class") == _NEW_CLASS:
        found["tokenizer_class"] = CLASS
    if isinstance(found.get(_NEW_LIST), list):
        listed = [*found.get(_LIST, []), *found.pop(_NEW_LIST)]
        found[_LIST] = list({str(token): token for token in listed}.values())
    return found


def _as_it_stands(path: Path) -> Tokenizer:
    """Return the tokenizer of tokenizer.json, without its padding and its limit."""
    try:
        file = Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises plain exceptions.
        raise InputError(f"{path}: not a tokenizer ({' '.join(str(error).split())})") from None
    file.no_padding()
    file.no_truncation()
    return file


def _first_difference(
    tokenizer: PreTrainedTokenizerBase, file: Tokenizer, texts: Sequence[str]
) -> str | None:
    """Return the first text that becomes other ids than those of the file, in words; None where there is
    none.
    """
    ours: Sequence[list[int]] = tokenizer(list(texts), verbose=False)["input_ids"]
    for text, one, other in zip(texts, ours, file.encode_batch(list(texts)), strict=True):
        if one != other.ids:
            return (
                f"transformers ({type(tokenizer).__name__}) makes {_shown(one)} of {text!r}, the file itself "
                f"{_shown(other.ids)}"
            )
    return None


def _shown(ids: Sequence[int]) -> str:
    return str(list(ids)) if len(ids) <= 8 else f"[{', '.join(map(str, ids[:8]))}, ...]"


@cache
def _tell(sentence: str) -> None:
    """Log a warning, once for each sentence, because a command opens a model several times."""
    log.warning("%s", sentence)
