"""BERT encoders with pooling: sentence-transformers models such as all-MiniLM, BGE, GTE, E5."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor
from transformers import BertConfig, PreTrainedTokenizerFast

from converters.bert.blocks import Layer, Stem
from converters.bert.gguf import Pooling, gguf_spec
from converters.bert.onnx import onnx_spec
from converters.shared.batches import fitting, tokenised
from converters.shared.config import load_config, refuse_other_values
from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.models.family import Batch, Block, Export, ZeroShot
from epmq_export.models.samples import Sample, text_of
from epmq_export.models.specs import GgufExport, OnnxExport
from epmq_export.models.tokenizer import fast_tokenizer

log = logging.getLogger(__name__)

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
    pooling: Pooling
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
        tokenizer = fast_tokenizer(directory)
        positions = config.max_position_embeddings
        limits = (_longest(directory) or positions, tokenizer.model_max_length, positions)
        return cls(directory, config, tokenizer, _pooling(directory), min(limits))

    @property
    def zero_shot(self) -> ZeroShot:
        return ZeroShot(self)

    @property
    def exports(self) -> Mapping[str, Export]:
        return {
            "gguf": GgufExport(
                runtimes=("llama.cpp",),
                computed=self._as_ggml,
                splits=True,
                spec=lambda: gguf_spec(self.config, self.pooling, self.tokenizer, self.directory),
            ),
            "onnx": OnnxExport(
                runtimes=("onnxruntime",),
                computed=lambda: self,
                specs=lambda: {"model": onnx_spec(self)},
            ),
        }

    @property
    def blocks(self) -> Sequence[Block]:
        last = self.config.num_hidden_layers - 1
        layers = (Layer(self.config, i, self.pooling == "cls" and i == last) for i in range(last + 1))
        return (Stem(self.config), *layers)

    def canonical(self, name: str) -> str | None:
        """Return the name without the `bert.` of models with a head; the pooler, the heads and position
        indices are not part of an encoder.
        """
        name = name.removeprefix("bert.")
        if not name.startswith(("embeddings.", "encoder.")) or name == "embeddings.position_ids":
            return None
        return name

    def truncate(self, sample: Sample) -> str:
        return fitting(self.tokenizer, text_of(sample), self.max_length)

    def later(self, batch: Batch) -> Batch:
        return {"attention_mask": batch["attention_mask"]}

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        settings = {"return_token_type_ids": True}
        for encoded in tokenised(self.tokenizer, samples, size, self.max_length, **settings):
            yield {key: encoded[key] for key in ("input_ids", "attention_mask", "token_type_ids")}

    def output(self, hidden: Tensor, batch: Batch) -> Tensor:
        return pool(hidden, batch["attention_mask"], self.pooling)

    def _as_ggml(self) -> "Bert":
        """Return the family with the tanh form of GELU, which llama.cpp computes."""
        config = BertConfig.from_dict({**self.config.to_dict(), "hidden_act": "gelu_pytorch_tanh"})
        config._attn_implementation = "sdpa"
        return replace(self, config=config)


def open_family(directory: Path, model_type: str) -> Bert:
    """Open a model's directory."""
    return Bert.open(directory)


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Return one unnormalised embedding for each text, [batch, width]."""
    if pooling == "cls":
        return hidden[:, 0]
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)


def _longest(directory: Path) -> int | None:
    """Return what sentence-transformers cuts texts at; None where it does not say."""
    path = directory / "sentence_bert_config.json"
    found = read_json(path).get("max_seq_length") if path.exists() else None
    if not (found is None or (isinstance(found, int) and found > 0)):
        raise InputError(f"{path}: found max_seq_length {found!r}, expected a number of tokens")
    return found


def _pooling(directory: Path) -> Pooling:
    path = directory / "1_Pooling" / "config.json"
    settings = read_json(path) if path.exists() else {}
    if not settings:
        log.warning("%s: no 1_Pooling/config.json; taking mean pooling", directory)
        return "mean"
    modes = [key for key, value in settings.items() if key.startswith("pooling_mode") and value is not False]
    if modes == ["pooling_mode_mean_tokens"] or settings.get("pooling_mode") == "mean":
        return "mean"
    if modes == ["pooling_mode_cls_token"] or settings.get("pooling_mode") == "cls":
        return "cls"
    raise InputError(f"{path}: pooling is {', '.join(modes) or 'none'}, expected mean or CLS")
