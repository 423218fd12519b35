"""BERT encoders with pooling: sentence-transformers models such as all-MiniLM, BGE, GTE, E5."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tokenizers import normalizers
from torch import Tensor, nn
from transformers import BertConfig, PreTrainedTokenizerFast

from converters.bert.blocks import Layer, Pooled, Stem
from converters.bert.gguf import gguf_spec
from converters.bert.names import naming
from converters.bert.onnx import onnx_spec
from converters.bert.pooling import pool
from converters.bert.sentence import Sentence, read_sentence
from converters.shared.batches import fitting, tokenised
from converters.shared.config import load_config, refuse_other_values
from converters.shared.dequantised import dequantised
from epmq_export.models.family import Batch, Block, Export, ZeroShot
from epmq_export.models.samples import Sample, text_of
from epmq_export.models.specs import GgufExport, OnnxExport
from epmq_export.models.tokenizer import fast_tokenizer

_KNOWN: Mapping[str, tuple[object, ...]] = {
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
}


@dataclass(frozen=True)
class Bert:
    """An encoder, whose outputs are embeddings of texts."""

    directory: Path
    config: BertConfig
    tokenizer: PreTrainedTokenizerFast
    sentence: Sentence
    """What becomes of the tokens."""

    max_length: int
    """Tokens that a text has at most, special ones counted."""

    name: str = "bert"
    embeddings: tuple[str, ...] = ("embeddings.word_embeddings.weight",)
    frozen: tuple[str, ...] = ()
    language: None = None
    images: None = None

    @classmethod
    def open(cls, directory: Path) -> "Bert":
        path = directory / "config.json"
        config = load_config("bert", path, BertConfig)
        refuse_other_values("bert", path, config, _KNOWN)
        tokenizer, sentence = fast_tokenizer(directory), read_sentence(directory)
        if sentence.lower:
            _lowered(tokenizer)
        positions = config.max_position_embeddings
        limits = (sentence.longest or positions, tokenizer.model_max_length, positions)
        return cls(directory, config, tokenizer, sentence, min(limits))

    @property
    def zero_shot(self) -> ZeroShot:
        return ZeroShot(self, prompts=self.sentence.prompts)

    @property
    def exports(self) -> Mapping[str, Export]:
        return {
            "gguf": GgufExport(
                runtimes=("llama.cpp",),
                computed=self._as_ggml,
                splits=True,
                unit=self.sentence.unit,
                spec=lambda: gguf_spec(self.config, self.sentence, self.tokenizer, self.directory),
            ),
            "onnx": OnnxExport(
                runtimes=("onnxruntime",),
                computed=lambda: self,
                specs=lambda: {"model": onnx_spec(self, self.sentence)},
            ),
            "safetensors": dequantised(self),
        }

    @property
    def blocks(self) -> Sequence[Block]:
        last = self.config.num_hidden_layers - 1
        layers = (
            Layer(self.config, i, self.sentence.modes == ("cls",) and i == last) for i in range(last + 1)
        )
        return (Stem(self.config), *layers, *([Pooled(self.sentence)] if self.sentence.dense else []))

    def canonical(self, name: str) -> str | None:
        return naming({}).canonical(name)

    def truncate(self, sample: Sample) -> str:
        return fitting(self.tokenizer, text_of(sample), self.max_length)

    def later(self, batch: Batch) -> Batch:
        return {"attention_mask": batch["attention_mask"]}

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        settings = {"return_token_type_ids": True}
        for encoded in tokenised(self.tokenizer, samples, size, self.max_length, **settings):
            yield {key: encoded[key] for key in ("input_ids", "attention_mask", "token_type_ids")}

    def output(self, hidden: Tensor, batch: Batch) -> Tensor:
        dense = self.sentence.dense
        found = hidden[:, 0] if dense else pool(hidden, batch["attention_mask"], self.sentence.modes)
        return nn.functional.normalize(found, dim=1) if self.sentence.unit else found

    def _as_ggml(self) -> "Bert":
        """Return the family with the tanh form of GELU and unnormalised outputs, which llama.cpp computes."""
        config = BertConfig.from_dict({**self.config.to_dict(), "hidden_act": "gelu_pytorch_tanh"})
        config._attn_implementation = "sdpa"
        return replace(self, config=config, sentence=replace(self.sentence, unit=False))


def open_family(directory: Path, model_type: str) -> Bert:
    """Open a model's directory."""
    return Bert.open(directory)


def _lowered(tokenizer: PreTrainedTokenizerFast) -> None:
    """Make a tokenizer lower every text, and leave its accents as they are."""
    backend = tokenizer.backend_tokenizer
    own = backend.normalizer
    if isinstance(own, normalizers.BertNormalizer):
        if own.strip_accents is None:
            own.strip_accents = own.lowercase
        own.lowercase = True
        backend.normalizer = own
    else:
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([own] if own else [])])
