"""Tokenizers that are compared with their tokenizer.json on some of the hard texts alone, where both are
written alike.

Every opening of a model compares them on 2,000 texts, which takes longer than all else of a tiny one. Two
that are written alike do the same with any text, and the few texts show that the library's class does no
more.
"""

from collections.abc import Callable, Sequence

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from epmq_export.models import tokenizer as module

Compare = Callable[[PreTrainedTokenizerBase, Tokenizer, Sequence[str]], str | None]

compared: Compare = module._first_difference
"""The function that compares on all texts."""


def compare_briefly() -> None:
    """Let `epmq_export.models.tokenizer` compare so."""
    module._first_difference = _briefly


def _briefly(tokenizer: PreTrainedTokenizerBase, file: Tokenizer, texts: Sequence[str]) -> str | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    alike = backend is not None and backend.to_str() == file.to_str()
    return compared(tokenizer, file, texts[::40] if alike else texts)
