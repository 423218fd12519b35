"""BERT encoders with pooling: sentence-transformers models such as all-MiniLM, BGE, GTE, E5."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import BertConfig, PreTrainedTokenizerFast

from converters.bert.blocks import Layer, Stem
from converters.bert.onnx import Encoder
from converters.tokenizers.load import fast_tokenizer
from converters.tokenizers.wordpiece import wordpiece
from epmq_export.errors import InputError
from epmq_export.models.family import Batch, Block, Export, ZeroShot
from epmq_export.models.samples import Sample, text_of
from epmq_export.models.specs import GgufExport, GgufSpec, Metadata, OnnxExport, OnnxSpec

log = logging.getLogger(__name__)

Pooling = Literal["mean", "cls"]
GGUF_POOLING = {"mean": 1, "cls": 2}
_GGUF_EMBEDDINGS = {
    "word_embeddings": "token_embd",
    "position_embeddings": "position_embd",
    "token_type_embeddings": "token_types",
}
_GGUF_NORM = "token_embd_norm"
_GGUF_MODULES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


@dataclass(frozen=True)
class Bert:
    """A BERT encoder with its pooling."""

    directory: Path
    config: BertConfig
    tokenizer: PreTrainedTokenizerFast
    pooling: Pooling
    max_length: int
    name: str = "bert"
    embeddings: tuple[str, ...] = ("embeddings.word_embeddings.weight",)
    frozen: tuple[str, ...] = ()
    language: None = None
    images: None = None

    @classmethod
    def open(cls, directory: Path) -> "Bert":
        """Read the config, the tokenizer and the pooling of a model directory.

        Raises InputError for settings that this family does not have.
        """
        config = BertConfig.from_pretrained(directory)
        config._attn_implementation = "sdpa"
        _refuse_unsupported(directory / "config.json", config)
        tokenizer = fast_tokenizer(directory)
        limit = _read(directory / "sentence_bert_config.json").get("max_seq_length")
        max_length = min(
            limit or config.max_position_embeddings,
            tokenizer.model_max_length,
            config.max_position_embeddings,
        )
        return cls(
            directory=directory,
            config=config,
            tokenizer=tokenizer,
            pooling=_pooling(directory),
            max_length=max_length,
        )

    @property
    def zero_shot(self) -> ZeroShot:
        return ZeroShot(self)

    @property
    def exports(self) -> Mapping[str, Export]:
        return {
            "gguf": GgufExport(
                runtimes=("llama.cpp",), computed=self._as_ggml, splits=True, spec=self._gguf_spec
            ),
            "onnx": OnnxExport(runtimes=("onnxruntime",), computed=lambda: self, specs=self._onnx_specs),
        }

    @property
    def blocks(self) -> Sequence[Block]:
        last = self.config.num_hidden_layers - 1
        layers = (Layer(self.config, i, self.pooling == "cls" and i == last) for i in range(last + 1))
        return (Stem(self.config), *layers)

    def canonical(self, name: str) -> str | None:
        """Return the name without the `bert.` of models with a head. The pooler, the heads and position
        indices are no part of an encoder.
        """
        name = name.removeprefix("bert.")
        if not name.startswith(("embeddings.", "encoder.")) or name == "embeddings.position_ids":
            return None
        return name

    def truncate(self, sample: Sample) -> str:
        text = text_of(sample)
        encoded = self.tokenizer(
            text, truncation=True, max_length=self.max_length, return_offsets_mapping=True
        )
        if len(encoded["input_ids"]) < self.max_length:
            return text
        return text[: max(end for _, end in encoded["offset_mapping"])]

    def later(self, batch: Batch) -> Batch:
        return {"attention_mask": batch["attention_mask"]}

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        for start in range(0, len(samples), size):
            encoded = self.tokenizer(
                [text_of(sample) for sample in samples[start : start + size]],
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
                return_token_type_ids=True,
            )
            yield {key: encoded[key] for key in ("input_ids", "attention_mask", "token_type_ids")}

    def output(self, hidden: Tensor, batch: Batch) -> Tensor:
        return pool(hidden, batch["attention_mask"], self.pooling)

    def _gguf_spec(self) -> GgufSpec:
        """Return the layout of llama.cpp's architecture `bert`."""
        config = self.config
        metadata: Metadata = {
            "bert.block_count": config.num_hidden_layers,
            "bert.context_length": config.max_position_embeddings,
            "bert.embedding_length": config.hidden_size,
            "bert.feed_forward_length": config.intermediate_size,
            "bert.attention.head_count": config.num_attention_heads,
            "bert.attention.layer_norm_epsilon": config.layer_norm_eps,
            "bert.attention.causal": False,
            "bert.pooling_type": GGUF_POOLING[self.pooling],
            "tokenizer.ggml.token_type_count": config.type_vocab_size,
            **wordpiece(self.tokenizer, self.directory, config.vocab_size),
        }
        names = {f"embeddings.{here}.weight": f"{there}.weight" for here, there in _GGUF_EMBEDDINGS.items()}
        modules = {"embeddings.LayerNorm": _GGUF_NORM}
        for layer in range(config.num_hidden_layers):
            modules |= {
                f"encoder.layer.{layer}.{here}": f"blk.{layer}.{there}"
                for here, there in _GGUF_MODULES.items()
            }
        names |= {
            f"{here}.{kind}": f"{there}.{kind}"
            for here, there in modules.items()
            for kind in ("weight", "bias")
        }
        return GgufSpec("bert", metadata, names)

    def _onnx_specs(self) -> Mapping[str, OnnxSpec]:
        """Return one model. Its outputs are `last_hidden_state` for feature-extraction pipelines, which pool
        themselves, and `sentence_embedding`, pooled and unnormalised.
        """
        tokens = {0: "batch", 1: "sequence"}
        inputs = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), tokens)
        # The example has two rows of three, because the exporter takes an axis of length 0 or 1 for constant.
        example = {name: torch.ones(2, 3, dtype=torch.int64) for name in inputs}
        outputs = {"last_hidden_state": tokens, "sentence_embedding": {0: "batch"}}
        return {
            "model": OnnxSpec(
                build=lambda source: Encoder(self.blocks, self.output, source),
                example=example,
                inputs=inputs,
                outputs=outputs,
                towers=[self],
            )
        }

    def _as_ggml(self) -> "Bert":
        """Return the family with the tanh form of GELU, which llama.cpp computes."""
        config = BertConfig.from_dict({**self.config.to_dict(), "hidden_act": "gelu_pytorch_tanh"})
        config._attn_implementation = "sdpa"
        return replace(self, config=config)


def pool(hidden: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """Return one unnormalised embedding for each text, [batch, width]."""
    if pooling == "cls":
        return hidden[:, 0]
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}, expected an object")
    return content


def _refuse_unsupported(path: Path, config: BertConfig) -> None:
    expected = {
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }
    for key, value in expected.items():
        found = getattr(config, key, value)
        if found != value:
            raise InputError(f"{path}: {key} is {found!r}, expected {value!r}: family bert has no other")


def _pooling(directory: Path) -> Pooling:
    path = directory / "1_Pooling" / "config.json"
    settings = _read(path)
    if not settings:
        log.warning("%s: no 1_Pooling/config.json; taking mean pooling", directory)
        return "mean"
    modes = [key for key, value in settings.items() if key.startswith("pooling_mode") and value is not False]
    if modes == ["pooling_mode_mean_tokens"] or settings.get("pooling_mode") == "mean":
        return "mean"
    if modes == ["pooling_mode_cls_token"] or settings.get("pooling_mode") == "cls":
        return "cls"
    raise InputError(f"{path}: pooling is {', '.join(modes) or 'none'}, expected mean or CLS")
