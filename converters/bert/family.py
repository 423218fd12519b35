"""Encoders of BERT's kind with pooling: sentence-transformers models such as all-MiniLM, BGE, GTE and E5, and
those of RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT and MPNet.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from tokenizers import models, normalizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from converters.bert.blocks import Layer, Pooled, Stem
from converters.bert.gguf import gguf_spec
from converters.bert.kinds import KINDS, Kind
from converters.bert.names import naming
from converters.bert.onnx import onnx_spec
from converters.bert.pooling import pool
from converters.bert.relative import TabledLayer
from converters.bert.sentence import Sentence, read_sentence
from converters.shared.batches import between_texts, fitting, fitting_pair, tokenised
from converters.shared.classifiers import Scored, head_of
from converters.shared.config import Config, load_config, refuse_other_values
from converters.shared.dequantised import dequantised
from converters.shared.library import config_class
from converters.tokenizers.for_llama_cpp import agreement
from epmq_export.errors import InputError
from epmq_export.models.classifiers import PREFIX, WEIGHTS, Classifier, read_classifiers
from epmq_export.models.family import Batch, Block, Classifiers, Export, ZeroShot
from epmq_export.models.samples import Pair, Sample, text_of
from epmq_export.models.specs import GgufExport, GgufSpec, OnnxExport
from epmq_export.models.tokenizer import fast_tokenizer
from epmq_export.tensors.modules import MODULES, is_cross_encoder
from epmq_export.tensors.naming import Naming

_KNOWN: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("gelu",),
    "activation": ("gelu",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}


@dataclass(frozen=True)
class Bert:
    """An encoder, whose outputs are embeddings of texts, or the scores of classifiers that read it."""

    directory: Path
    kind: Kind
    config: Config
    tokenizer: PreTrainedTokenizerFast
    sentence: Sentence
    """What becomes of the tokens."""

    max_length: int
    """Tokens that a text has at most, special ones counted."""

    heads: tuple[Classifier, ...] = ()
    """The classifiers that read the pooled hidden state, in the order of their scores."""

    embeddings: tuple[str, ...] = ("embeddings.word_embeddings.weight",)
    frozen: tuple[str, ...] = ()
    language: None = None
    images: None = None

    @classmethod
    def open(cls, directory: Path, kind: Kind) -> "Bert":
        path = directory / "config.json"
        config = load_config(kind.name, path, config_class(kind.name))
        refuse_other_values(kind.name, path, config, {**_KNOWN, **kind.known})
        tokenizer, sentence = fast_tokenizer(directory), read_sentence(directory)
        if sentence.lower:
            tokenizer = lowered(tokenizer)
        positions = _positions(path, kind, config, tokenizer)
        limits = (sentence.longest or positions, tokenizer.model_max_length, positions)
        opened = cls(directory, kind, config, tokenizer, sentence, min(limits))
        heads = read_classifiers(directory)
        return opened._read_by(heads) if heads else opened

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def zero_shot(self) -> ZeroShot | None:
        return None if self.heads else ZeroShot(self, prompts=self.sentence.prompts)

    @property
    def classifiers(self) -> Classifiers | None:
        # What has rows for the types of tokens needs one for those of a second text.
        types = not self.kind.reads_types or self.config.type_vocab_size > 1
        return Classifiers(
            parts=self._naming.classifier or {}, read_by=self._read_by, heads=self.heads, pairs=types
        )

    @property
    def exports(self) -> Mapping[str, Export]:
        gguf = GgufExport(
            runtimes=("llama.cpp",),
            computed=self._as_ggml,
            splits=True,
            unit=self.sentence.unit,
            agrees=None if _pieces_words(self.tokenizer) else lambda: agreement(self.tokenizer),
            spec=self._gguf_with_heads,
            joined=self._joined,
            heads_beside=None if self._scored is None else self._scored.beside,
        )
        return {
            **({} if self.kind.relative else {"gguf": gguf}),
            "onnx": OnnxExport(
                runtimes=("onnxruntime",),
                clients=(*self._clients, *self._pooling_clients),
                computed=lambda: self,
                specs=lambda: {"model": onnx_spec(self, self.kind.inputs, self.sentence, self._scored)},
            ),
            "safetensors": replace(dequantised(self), clients=self._clients),
        }

    @property
    def _clients(self) -> Sequence[str]:
        """Return the clients that do what the modules of sentence-transformers say."""
        said = (self.directory / MODULES).is_file() and not is_cross_encoder(self.directory)
        return ("sentence-transformers",) if said and not self.heads else ()

    @property
    def _pooling_clients(self) -> Sequence[str]:
        """Return the clients that pool as their users ask, where users can ask what the model does. Where
        they ask for the last token, it is that of the longest text, unless texts are padded before it.
        """
        last = [("lasttoken",)] if self.tokenizer.padding_side == "left" else []
        simple = not self.sentence.dense and self.sentence.modes in (("mean",), ("cls",), *last)
        return (
            ("transformers.js", "onnxruntime-web", "onnxruntime-webgpu") if self._clients and simple else ()
        )

    @property
    def blocks(self) -> Sequence[Block]:
        last_of_all = Pooled(self.sentence) if self.sentence.dense else self._scored
        return self._encoder if last_of_all is None else (*self._encoder, last_of_all)

    @property
    def _encoder(self) -> Sequence[Block]:
        """Return the blocks that make the hidden state which is pooled."""
        last = self.config.num_hidden_layers - 1
        by_first = self.sentence.modes == ("cls",)
        layer = TabledLayer if self.kind.relative else Layer
        layers = (layer(self.kind, self.config, i, by_first and i == last) for i in range(last + 1))
        return (Stem(self.kind, self.config), *layers)

    def _gguf_spec(self) -> GgufSpec:
        return gguf_spec(self.kind, self.config, self.sentence, self.tokenizer, self.directory)

    def _gguf_with_heads(self) -> GgufSpec:
        """Return the layout with classifiers beside the file, since llama.cpp has room for one of them."""
        spec, heads = self._gguf_spec(), self._scored.names_beside() if self._scored else {}
        if not heads:
            return spec
        return replace(spec, left_out=frozenset(heads.values()), beside_weights={WEIGHTS: heads})

    @property
    def _scored(self) -> Scored | None:
        return Scored(self.heads, self._head, self._pooled) if self.heads else None

    def _head(self, classes: int) -> nn.Module:
        """Return a classifier's head for a number of classes."""
        width = self.config.hidden_size
        between: nn.Module = getattr(nn, self.kind.between)()
        return head_of(dense=nn.Linear(width, width), between=between, out=nn.Linear(width, classes))

    def _read_by(self, heads: Sequence[Classifier]) -> Self:
        """Return the family whose outputs are the scores of classifiers. They read a text as the tokenizer
        gives it, whatever sentence-transformers makes of the base's texts and tokens.
        """
        tokenizer = fast_tokenizer(self.directory) if self.sentence.lower else self.tokenizer
        return replace(
            self,
            heads=tuple(heads),
            tokenizer=tokenizer,
            sentence=Sentence(modes=(self._read_by_heads,)),
            max_length=self._longest(tokenizer),
        )

    @property
    def _read_by_heads(self) -> str:
        """The mode of pooling that classifiers read."""
        return "cls"

    def _longest(self, tokenizer: PreTrainedTokenizerFast) -> int:
        """Return how many tokens of a text there is room for."""
        positions = _positions(self.directory / "config.json", self.kind, self.config, tokenizer)
        return min(tokenizer.model_max_length, positions)

    def canonical(self, name: str) -> str | None:
        if self.heads and name.startswith(PREFIX):
            return name
        return self._naming.canonical(name)

    @property
    def _naming(self) -> Naming:
        return naming({"model_type": self.name})

    def truncate(self, sample: Sample) -> Sample:
        if isinstance(sample, Pair):
            return fitting_pair(self.tokenizer, sample, self.max_length)
        return fitting(self.tokenizer, text_of(sample), self.max_length)

    def later(self, batch: Batch) -> Batch:
        return {"attention_mask": batch["attention_mask"]}

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        # Texts are padded behind, wherever the tokenizer's users pad them.
        settings = {"return_token_type_ids": True, "padding_side": "right"}
        for encoded in tokenised(self.tokenizer, samples, size, self.max_length, **settings):
            yield {key: encoded[key] for key in self.kind.inputs}

    def output(self, hidden: Tensor, batch: Batch) -> Tensor:
        last = self.sentence.dense or self.heads
        found = hidden[:, 0] if last else self._pooled(hidden, batch)
        return nn.functional.normalize(found, dim=1) if self.sentence.unit else found

    def _pooled(self, hidden: Tensor, batch: Batch) -> Tensor:
        return pool(hidden, batch["attention_mask"], self.sentence.modes)

    def _joined(self, pair: Pair) -> str:
        """Return the text whose tokens are a pair's: llama.cpp finds special tokens in a text, and puts those
        around it that stand around a pair, too.
        """
        if self.kind.reads_types:
            raise InputError(
                f"{self.directory}: found pairs of texts, expected single ones: a {self.name} has a type for "
                "the tokens of the second text, and llama.cpp gives all tokens the first one; leave gguf out "
                "of export.formats, or bring both texts together in a prompt"
            )
        if not (between := between_texts(self.tokenizer)):
            raise InputError(
                f"{self.directory}: found a tokenizer that puts nothing between two texts, expected a token "
                "that llama.cpp finds between them"
            )
        return f"{pair.first}{between}{pair.second}"

    def _as_ggml(self) -> "Bert":
        """Return the family with the tanh form of GELU and unnormalised outputs, which llama.cpp computes;
        it gives the hidden states that classifiers read, and has none itself.
        """
        config = copy.deepcopy(self.config)
        setattr(config, self.kind.activation, "gelu_pytorch_tanh")
        return replace(self, config=config, sentence=replace(self.sentence, unit=False), heads=())


def open_family(directory: Path, model_type: str) -> Bert:
    """Open a model's directory."""
    return Bert.open(directory, KINDS[model_type])


def _positions(path: Path, kind: Kind, config: Config, tokenizer: PreTrainedTokenizerFast) -> int:
    """Return how many tokens the position embeddings have rows for.

    Raises InputError where the rows are counted from another token than the one that pads, and where none is
    left.
    """
    if kind.begin(config) and config.pad_token_id != tokenizer.pad_token_id:
        raise InputError(
            f"{path}: found pad_token_id {config.pad_token_id}, expected {tokenizer.pad_token_id}, as the "
            "tokenizer has it: positions are counted from it"
        )
    rows: int = config.max_position_embeddings - kind.begin(config)
    if rows < 1:
        raise InputError(
            f"{path}: found max_position_embeddings {config.max_position_embeddings}, expected more than "
            f"{kind.begin(config)}, the rows before those of a text"
        )
    return rows


def _pieces_words(tokenizer: PreTrainedTokenizerFast) -> bool:
    return isinstance(tokenizer.backend_tokenizer.model, models.WordPiece)


def lowered(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Return a tokenizer that lowers every text, and leaves its accents as they are."""
    tokenizer = copy.deepcopy(tokenizer)  # It is shared.
    backend = tokenizer.backend_tokenizer
    own = backend.normalizer
    if isinstance(own, normalizers.BertNormalizer):
        if own.strip_accents is None:
            own.strip_accents = own.lowercase
        own.lowercase = True
        backend.normalizer = own
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([own] if own else [])])
    return tokenizer
