"""Tokenizers that are compared with their tokenizer.json on some of the hard texts alone, where both are
written alike.

Every opening of a model compares them on 2,000 texts, which takes longer than all else of a tiny one. Two
that are written alike do the same with any text, and the few texts show that the library's class does no
more. What is made of the same is compared once.
"""

from collections.abc import Callable, Hashable, Sequence

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from epmq_export.models import tokenizer as module

Compare = Callable[[PreTrainedTokenizerBase, Tokenizer, Sequence[str]], str | None]

# What the library keeps of the place that a tokenizer was read from.
_PLACES = ("name_or_path", "vocab_file", "tokenizer_file", "merges_file", "tokenizer_object", "backend")

_found: dict[Hashable, str | None] = {}
"""What was found, by all that two are made of: the models of a test mostly have one tokenizer among them."""

compared: Compare = module._first_difference
"""The function that compares on all texts."""


def compare_briefly() -> None:
    """Let `epmq_export.models.tokenizer` compare so."""
    module._first_difference = _briefly


def _briefly(tokenizer: PreTrainedTokenizerBase, file: Tokenizer, texts: Sequence[str]) -> str | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    ours, theirs = None if backend is None else backend.to_str(), file.to_str()
    said = {name: value for name, value in tokenizer.init_kwargs.items() if name not in _PLACES}
    key = type(tokenizer), repr(said), hash(ours), hash(theirs), len(texts)
    if ours is None or key not in _found:
        _found[key] = compared(tokenizer, file, texts[::40] if ours == theirs else texts)
    return _found[key]
