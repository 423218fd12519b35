"""Decoders that embed texts, with sentence-transformers' modules beside them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from converters.bert.family import Bert, lowered
from converters.bert.kinds import Kind
from converters.bert.sentence import read_sentence
from converters.decoder.family import Decoder
from converters.decoder.names import EMBEDDINGS
from converters.embedder.blocks import Last
from converters.embedder.gguf import gguf_spec
from converters.embedder.kinds import KINDS
from converters.embedder.names import naming
from epmq_export.models.family import Block
from epmq_export.models.specs import GgufSpec
from epmq_export.tensors.naming import Naming


@dataclass(frozen=True, kw_only=True)
class Embedder(Bert):
    """An encoder that has the layers of a decoder. It does with tokens and their pooling what BERT does."""

    decoder: Decoder
    """The language model, of which the head is not read."""

    embeddings: tuple[str, ...] = (EMBEDDINGS,)
    classifiers: None = None

    @property
    def _encoder(self) -> Sequence[Block]:
        config, offset = self.config, self.decoder.kind.offset
        last = Last(width=config.hidden_size, eps=config.rms_norm_eps, offset=offset)
        return (self.decoder.stem, *self.decoder.layers, last)

    @property
    def _naming(self) -> Naming:
        return naming({"model_type": self.name})

    def _gguf_spec(self) -> GgufSpec:
        language = self.decoder.gguf_spec()
        return gguf_spec(language, self.sentence, self.config.hidden_size, self.directory)

    def _as_ggml(self) -> "Embedder":
        """Return the family with ggml's approximations and unnormalised outputs, which llama.cpp computes."""
        decoder = replace(self.decoder, as_ggml=True)
        return replace(self, decoder=decoder, sentence=replace(self.sentence, unit=False))


def open_family(directory: Path, model_type: str) -> Embedder:
    """Open a model's directory. Raises InputError for settings that this family does not have."""
    decoder, sentence = Decoder.open(directory, KINDS[model_type]), read_sentence(directory)
    config, tokenizer = decoder.config, decoder.tokenizer
    # Without a head there is none that the embeddings could not be.
    config.tie_word_embeddings = True
    if sentence.lower:
        tokenizer = lowered(tokenizer)
    return Embedder(
        directory=directory,
        kind=Kind(name=model_type, stem_class="", layer_class="", types=False),
        config=config,
        tokenizer=tokenizer,
        sentence=sentence,
        max_length=min(sentence.longest or decoder.max_length, decoder.max_length),
        decoder=decoder,
    )
