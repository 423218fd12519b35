"""ModernBERT with pooling: sentence-transformers models such as gte-modernbert and modernbert-embed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerFast

from converters.bert.family import Bert, lowered
from converters.bert.kinds import Kind
from converters.bert.sentence import read_sentence
from converters.modernbert.blocks import MODEL, Last, Layer, Stem
from converters.modernbert.gguf import gguf_spec
from converters.modernbert.names import BIASES, naming
from converters.shared.classifiers import head_of
from converters.shared.config import Config, load_config, refuse_other_values
from converters.shared.library import config_class, module_class
from epmq_export.errors import InputError
from epmq_export.models.classifiers import read_classifiers
from epmq_export.models.family import Block
from epmq_export.models.specs import GgufSpec
from epmq_export.models.tokenizer import fast_tokenizer
from epmq_export.tensors.naming import Naming

_KNOWN: Mapping[str, tuple[object, ...]] = {"hidden_activation": ("gelu",)}
_KIND = Kind(name=MODEL, stem_class="ModernBertEmbeddings", layer_class="ModernBertEncoderLayer", types=False)

LONGEST = 2048
"""The most tokens of a text, in whatever the model has room for: attention in both directions needs a whole
text in one batch of llama.cpp.
"""


@dataclass(frozen=True)
class ModernBert(Bert):
    """An encoder, whose outputs are embeddings of texts, or the scores of classifiers that read it. It does
    with tokens and their pooling what BERT does.
    """

    embeddings: tuple[str, ...] = ("embeddings.tok_embeddings.weight",)
    as_ggml: bool = False
    """Whether GELU is computed as in ggml."""

    @property
    def _encoder(self) -> Sequence[Block]:
        config, by_first = self.config, self.sentence.modes == ("cls",)
        rotary = module_class(MODEL, "ModernBertRotaryEmbedding")(config)
        last = config.num_hidden_layers - 1
        layers = (
            Layer(config, index, rotary, by_first and index == last, self.as_ggml)
            for index in range(last + 1)
        )
        return (Stem(config), *layers, Last(config, by_first))

    @property
    def _naming(self) -> Naming:
        return naming({key: getattr(self.config, key) for key in BIASES})

    def _gguf_spec(self) -> GgufSpec:
        return gguf_spec(self.config, self.sentence, self.tokenizer, self.directory)

    def _head(self, classes: int) -> nn.Module:
        """Return a classifier's head, of the library's own parts."""
        before = module_class(MODEL, "ModernBertPredictionHead")(self.config)
        dense, between, norm = map(before.get_submodule, ("dense", "act", "norm"))
        out = nn.Linear(self.config.hidden_size, classes)
        return head_of(dense=dense, between=between, norm=norm, out=out)

    @property
    def _read_by_heads(self) -> str:
        return str(self.config.classifier_pooling)

    def _longest(self, tokenizer: PreTrainedTokenizerFast) -> int:
        rows: int = self.config.max_position_embeddings
        return min(LONGEST, tokenizer.model_max_length, rows)

    def _as_ggml(self) -> "ModernBert":
        """Return the family with ggml's GELU and unnormalised outputs, which llama.cpp computes; it gives the
        rows that classifiers read, and has none itself.
        """
        return replace(self, as_ggml=True, sentence=replace(self.sentence, unit=False), heads=())


def open_family(directory: Path, model_type: str) -> ModernBert:
    """Open a model's directory. Raises InputError for settings that this family does not have."""
    path = directory / "config.json"
    config = load_config(MODEL, path, config_class(MODEL))
    refuse_other_values(MODEL, path, config, _KNOWN)
    _refuse_other_rotations(path, config)
    tokenizer, sentence = fast_tokenizer(directory), read_sentence(directory)
    if sentence.lower:
        tokenizer = lowered(tokenizer)
    limits = (
        LONGEST,
        sentence.longest or LONGEST,
        tokenizer.model_max_length,
        config.max_position_embeddings,
    )
    opened = ModernBert(directory, _KIND, config, tokenizer, sentence, min(limits))
    heads = read_classifiers(directory)
    return opened._read_by(heads) if heads else opened


def _refuse_other_rotations(path: Path, config: Config) -> None:
    """Raise InputError where positions are told otherwise than by plain rotary embeddings."""
    for attention in {*config.layer_types}:
        found = config.rope_parameters[attention].get("rope_type", "default")
        if found != "default":
            raise InputError(
                f"{path}: found rope_type {found!r} for {attention}, expected 'default': family {MODEL} has "
                "no other"
            )
