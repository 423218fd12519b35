"""One vocabulary for models that have several: mergekit's `tokenizer_source`, `tokenizer` and
`chat_template`.

The merge gets one tokenizer, and the token embeddings (and head) of every model are put in its order before
they are merged. A token that a model lacks gets the row that the recipe names for it, or else the row of the
only model that has it, of the base, or the mean of the models that have it, in this order. A token that no
model has gets zeros and a line in the log. Each slice is filled from its own models alone.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from epmq_export.errors import InputError, SettingError, first_line
from epmq_export.files import read_json
from epmq_export.merging.names import is_indexed
from epmq_export.merging.tokens import TokenEntry
from epmq_export.tensors.checkpoint import Checkpoint
from epmq_export.tensors.companions import TEMPLATES
from epmq_export.tensors.directory import CONFIG

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
)


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of the merge, and where each model has them."""

    tokens: Mapping[str, int]
    """The id of each token. Ids count from 0 without a gap."""

    size: int
    """The number of rows of the merge's embeddings: tokens and padding."""

    rows: Mapping[str, Tensor]
    """The model's own row of each token, -1 where it has none, int64 [tokens], by the model's location."""

    sizes: Mapping[str, int]
    """The number of rows that the model's config gives, by the model's location."""

    own: Mapping[str, Mapping[str, int]]
    """The model's own tokens with their ids, by the model's location."""

    entries: Mapping[str, TokenEntry]
    """The settings of single tokens, with models by their locations."""


def tokenizer_of(checkpoint: Checkpoint) -> "PreTrainedTokenizerBase":
    """Return a model's tokenizer. Raises InputError where it has none that transformers reads."""
    from epmq_export.models.tokenizer import open_tokenizer  # Most merges need no tokenizer.

    directory = checkpoint.model_directory
    try:
        tokenizer = open_tokenizer(directory)
    except InputError:
        raise
    except Exception as error:  # The library raises whatever its parsers raise.
        raise InputError(
            f"{directory}: found no tokenizer that transformers reads, expected one ({first_line(error)})"
        ) from None
    return tokenizer


def vocabulary(
    models: Mapping[str, Checkpoint],
    source: str,
    entries: Mapping[str, TokenEntry],
    multiple: int,
) -> tuple[Any, Vocabulary]:
    """Return the merge's tokenizer and vocabulary, its rows padded to a multiple of `multiple`.

    `source` is "base", "union" or a location; `models` are by location, the base first, and so are those in
    `entries`. Raises InputError for a tokenizer that its model's embeddings do not fit, SettingError for an
    entry's token that the tokenizer does not take.
    """
    base = next(iter(models))
    tokenizers = _tokenizers(models, needed=(base, source))
    sizes = {location: _size(model) for location, model in models.items()}
    own = {location: tokenizer.get_vocab() for location, tokenizer in tokenizers.items()}
    for location, model in models.items():
        _require_fitting(model, own[location], sizes[location])
    for location, model in models.items():
        _require_indexed(model, sizes[location])
    result = tokenizer_of(models[source if source in models else base])
    if source == "union":
        _add(result, tokenizers)
    result.add_tokens([token for token in entries if token not in result.get_vocab()])
    tokens = result.get_vocab()
    if refused := [token for token in entries if token not in tokens]:
        raise SettingError(
            ("tokenizer", "tokens", refused[0]),
            f"found the token {refused[0]!r}, which the tokenizer does not take, expected text of a token",
        )
    if sorted(tokens.values()) != list(range(len(tokens))):
        raise InputError(
            f"{models[base].model_directory}: the ids of the merged tokenizer are not 0 to "
            f"{len(tokens) - 1}, as rows of embeddings need"
        )
    order = sorted(tokens, key=lambda token: tokens[token])
    return result, Vocabulary(
        tokens=tokens,
        size=-(-len(tokens) // multiple) * multiple,
        rows={
            location: torch.tensor([known.get(token, -1) for token in order])
            for location, known in own.items()
        },
        sizes=sizes,
        own=own,
        entries=entries,
    )


def _tokenizers(
    models: Mapping[str, Checkpoint], needed: Collection[str]
) -> "dict[str, PreTrainedTokenizerBase]":
    """Return each model's tokenizer, or the first one's where it has none and is not `needed` to."""
    found = dict[str, "PreTrainedTokenizerBase"]()
    for location, model in models.items():
        try:
            found[location] = tokenizer_of(model)
        except InputError as error:
            if location in needed:
                raise
            log.warning("%s: taken to have the base's tokens", error)
            found[location] = next(iter(found.values()))
    return found


def _require_fitting(model: Checkpoint, tokens: Mapping[str, int], size: int) -> None:
    """Raise InputError where a token's id is none of the `size` rows that the model's config says."""
    last = max(tokens, key=lambda token: tokens[token])
    if tokens[last] >= size:
        raise InputError(
            f"{model.model_directory}: the tokenizer gives {last!r} the id {tokens[last]}, "
            f"but config.json says {size} rows"
        )


def _add(tokenizer: Any, tokenizers: Mapping[str, Any]) -> None:  # noqa: ANN401
    """Add every model's tokens that the tokenizer lacks, model by model in the order of their ids."""
    added: dict[str, Any] = {}
    for location, other in tokenizers.items():
        special = {info.content: info for _, info in sorted(other.added_tokens_decoder.items())}
        known = tokenizer.get_vocab()
        plain = sorted(
            (row, token)
            for token, row in other.get_vocab().items()
            if token not in known and token not in special
        )
        tokenizer.add_tokens([token for _, token in plain])
        for token, info in special.items():
            if added.setdefault(token, info) != info:
                log.warning(
                    "%s: token %r has other settings than in a model before it: those are kept",
                    location,
                    token,
                )
            elif token not in known:
                tokenizer.add_tokens([info])


def _size(model: Checkpoint) -> int:
    """Return how many rows of token embeddings a model's config says that it has."""
    path = model.model_directory / CONFIG
    config = read_json(path)
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and isinstance(part.get("vocab_size"), int):
            return int(part["vocab_size"])
    raise InputError(f"{path}: found no vocab_size, expected the number of rows of the token embeddings")


def _require_indexed(model: Checkpoint, size: int) -> None:
    """Raise InputError where no tensor has a row a token: its tokens could not be put in another order."""
    if any(is_indexed(model, name, size) for name in model.names()):
        return
    tables = [
        f"{name} has {model.shape(name)[0]}"
        for name in model.names()
        if name.endswith("weight") and "emb" in name and model.shape(name)
    ]
    rows = f" ({', '.join(tables)})" if tables else ""
    raise InputError(
        f"{model.model_directory / CONFIG}: found vocab_size {size}, but no token embeddings of so many "
        f"rows{rows}, expected the number of their rows"
    )


def chat_template(asked: str, models: Mapping[str, Checkpoint]) -> str:
    """Return the template that a recipe's `chat_template` means: Jinja as it is, or with `auto` the one that
    most models have.

    Raises SettingError for text that is no Jinja, and for `auto` where no model has a template.
    """
    if asked != "auto":
        if "{" not in asked:
            raise SettingError(
                ("chat_template",),
                f"found {asked!r}, expected 'auto' or a template in Jinja (mergekit's templates by name "
                "are not here)",
            )
        return asked
    found: Counter[str] = Counter()
    for location, model in models.items():
        try:
            template = tokenizer_of(model).chat_template
        except InputError as error:
            log.warning("%s: no chat template from it", error)
            continue
        template = template.get("default") if isinstance(template, dict) else template
        if template:
            found[template.strip()] += 1
        else:
            log.info("%s has no chat template", location)
    if not found:
        raise SettingError(
            ("chat_template",), "found 'auto', but no model has a chat template, expected one in Jinja"
        )
    return found.most_common(1)[0][0]


def write_tokenizer(tokenizer: Any, directory: Path) -> None:  # noqa: ANN401
    """Write a tokenizer, in place of the tokenizer files that are there."""
    from epmq_export.models.tokenizer import save_tokenizer

    for name in TOKENIZER_FILES:
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / TEMPLATES, ignore_errors=True)
    save_tokenizer(tokenizer, directory)
