"""T5 in both versions: the first (a plain feed-forward part, a head that is the embeddings), and 1.1 with
FLAN (a gated feed-forward part, a head of its own).
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config

from converters.shared.batches import parts
from converters.shared.config import Config, load_config, refuse_other_values
from converters.shared.dequantised import dequantised
from converters.shared.distances import DISTANCE
from converters.shared.ggml_gelu import GatedGelu
from converters.t5.blocks import Head, Layer, Stack, Stem, Turn, position_buckets
from converters.t5.gguf import gguf_spec
from converters.t5.names import HEAD, SHARED, is_tied, naming
from converters.t5.onnx import onnx_specs
from converters.tokenizers.chat import as_chat, as_passage
from converters.tokenizers.for_llama_cpp import agreement
from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.models.family import Batch, Block, Export, Language
from epmq_export.models.greedy import answers
from epmq_export.models.samples import Passage, Question, Sample, text_of
from epmq_export.models.specs import GgufExport, GgufSpec, OnnxExport, OnnxSpec
from epmq_export.models.tokenizer import fast_tokenizer
from epmq_export.tensors.source import TensorSource

# The length that it was trained on, where the config does not say one. Positions are relative, so this is
# no bound of the model itself.
POSITIONS = 512
# The most tokens of an answer that is calibrated on. A classifier's labels have few.
ANSWER = 16


# What llama.cpp, or the blocks here, would compute otherwise is refused.
_KNOWN: Mapping[str, tuple[object, ...]] = {
    "feed_forward_proj": ("relu", "gated-gelu"),
    "relative_attention_max_distance": (DISTANCE,),
    "is_encoder_decoder": (True,),
}
# What the feed-forward part is by the key that the library takes it from: a config may have it apart, too.
_FEED_FORWARD: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    "relu": {"is_gated_act": (False,), "dense_act_fn": ("relu",)},
    "gated-gelu": {"is_gated_act": (True,), "dense_act_fn": ("gelu_new", "gelu_pytorch_tanh", "gelu")},
}


@dataclass(frozen=True)
class T5:
    """Both versions. `Passage`s have their context in the encoder and their target in the decoder, each with
    the token that ends it; of a text, which is all the encoder's, the decoder's first step is read.
    """

    directory: Path
    config: T5Config
    tied: bool
    start: int
    """The token that the decoder begins with."""

    tokenizer: PreTrainedTokenizerFast
    max_length: int
    """The most tokens of either half, with the token that ends it."""

    activation: nn.Module | None = field(default=None, compare=False, repr=False)
    """What stands in for the config's activation."""

    name: str = "t5"
    frozen: tuple[str, ...] = ()
    zero_shot: None = None
    classifiers: None = None
    images: None = None

    @classmethod
    def open(cls, directory: Path) -> "T5":
        """Read the config and the tokenizer of a model directory.

        Raises InputError for settings that this family does not have.
        """
        path = directory / "config.json"
        stored = read_json(path)
        config = load_config("t5", path, T5Config)
        refuse_other_values("t5", path, config, _KNOWN)
        refuse_other_values("t5", path, config, _FEED_FORWARD[config.feed_forward_proj])
        tokenizer = fast_tokenizer(directory)
        _refuse_endings(path, config, tokenizer)
        positions = getattr(config, "n_positions", None)
        if not (positions is None or isinstance(positions, int)):
            raise InputError(f"{path}: found n_positions {positions!r}, expected a number")
        limits = (positions or POSITIONS, tokenizer.model_max_length)
        return cls(directory, config, is_tied(stored), config.decoder_start_token_id, tokenizer, min(limits))

    @property
    def language(self) -> Language:
        return self

    @property
    def exports(self) -> Mapping[str, Export]:
        return {
            "gguf": GgufExport(
                runtimes=("llama.cpp",),
                computed=self._as_ggml,
                splits=True,
                agrees=lambda: agreement(self.tokenizer),
                spec=self._gguf_spec,
            ),
            "onnx": OnnxExport(runtimes=("onnxruntime",), computed=lambda: self, specs=self._onnx_specs),
            "safetensors": dequantised(self),
        }

    @property
    def embeddings(self) -> tuple[str, ...]:
        return (SHARED,) if self.tied else (SHARED, HEAD)

    @property
    def blocks(self) -> Sequence[Block]:
        return (*self.encoder, *self.decoder)

    @property
    def encoder(self) -> Sequence[Block]:
        """The blocks that depend on the encoder's tokens alone."""
        return (self.stem, *self.layers("encoder"))

    @property
    def decoder(self) -> Sequence[Block]:
        return (Turn(self.config), *self.layers("decoder"), self.head)

    @property
    def stem(self) -> Stem:
        return Stem(self.config)

    @property
    def head(self) -> Head:
        return Head(self.config, self.tied)

    def layers(self, stack: Stack) -> Sequence[Layer]:
        """Return the layers of a stack."""
        depth = (
            self.config.num_layers
            if stack == "encoder"
            else self.config.num_decoder_layers or self.config.num_layers
        )
        config = copy.deepcopy(self.config)
        config.is_decoder, config.num_layers = stack == "decoder", depth
        buckets = position_buckets(config)
        return [
            Layer(config=config, index=i, buckets=buckets, approximate=self.activation) for i in range(depth)
        ]

    def canonical(self, name: str) -> str | None:
        """Return the name as transformers has it for a model with a head; a head that is tied to the
        embeddings counts as these.
        """
        known = naming({}).canonical(name)
        return SHARED if known == HEAD and self.tied else known

    def truncate(self, sample: Sample) -> Sample:
        """Cut what does not fit: texts, contexts, targets and questions lose their ends."""
        match sample:
            case Passage():
                return Passage(self._cut(sample.context), self._cut(sample.target))
            case Question():
                return replace(sample, text=self._cut(sample.text))
            case _:
                return self._cut(text_of(sample))

    def _cut(self, text: str) -> str:
        encoded = self.tokenizer(text, return_offsets_mapping=True)
        if len(encoded["input_ids"]) <= self.max_length:
            return text
        return text[: max((end for _, end in encoded["offset_mapping"][: self.max_length - 1]), default=0)]

    def targets(self, passage: Passage) -> list[int]:
        """Return the target's tokens with the one that ends it, so that an empty target has one."""
        return self._ids(passage.target)

    def passages(
        self, source: TensorSource, samples: Sequence[Sample], device: torch.device
    ) -> Sequence[Sample]:
        """Make a passage of each text: its target is the source's greedy answer, taken for an expert of what
        it is for, of up to 16 tokens. Passages stay as they are.

        An answer is text, which shows no cut at the limit. As a target it ends where it was cut, and is
        tokenised anew.
        """
        texts = [sample for sample in samples if isinstance(sample, str)]
        answered = answers(self, source, texts, ANSWER, device)
        found = dict(zip(texts, map(self.said, answered), strict=True))
        return [Passage(sample, found[sample]) if isinstance(sample, str) else sample for sample in samples]

    @property
    def ends(self) -> frozenset[int]:
        return frozenset({self.tokenizer.eos_token_id})

    def grown(self, batch: Batch, found: Tensor) -> Batch:
        """Give the decoder the tokens `found` behind its start. Tokens behind the end of an answer do no
        harm.
        """
        ids = torch.cat((torch.full((len(found), 1), self.start), found), 1)
        read = torch.zeros_like(ids)
        read[:, -1] = 1
        return {
            "attention_mask": batch["attention_mask"],
            "decoder_input_ids": ids,
            "decoder_attention_mask": torch.ones_like(ids),
            "read": read,
        }

    def chat(self, prompt: str) -> str:
        return as_chat(self.tokenizer, self.directory, prompt)

    def conversation(self, messages: Sequence[Mapping[str, Any]]) -> Sample:
        return as_passage(self.tokenizer, self.directory, messages)

    def said(self, answer: Sequence[int]) -> str:
        special = {self.tokenizer.eos_token_id, self.tokenizer.pad_token_id}
        return str(self.tokenizer.decode([token for token in answer if token not in special])).strip()

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def _encode(self, sample: Sample) -> tuple[list[int], list[int]]:
        """Return what the encoder is given, and what the decoder is given: the start, and of a target all
        tokens but the last.
        """
        if isinstance(sample, Passage):
            return self._ids(sample.context), [self.start, *self.targets(sample)[:-1]]
        return self._ids(text_of(sample)), [self.start]

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        """Give tokens and masks of both halves, and `read`, int64 [batch, length], which marks the decoder's
        tokens whose successors are scored: all that are no padding.
        """
        for part in parts(samples, size):
            encoded = [self._encode(sample) for sample in part]
            ids, mask = _padded([encoder for encoder, _ in encoded])
            decoder_ids, decoder_mask = _padded([decoder for _, decoder in encoded])
            yield {
                "input_ids": ids,
                "attention_mask": mask,
                "decoder_input_ids": decoder_ids,
                "decoder_attention_mask": decoder_mask,
                "read": decoder_mask,
            }

    def later(self, batch: Batch) -> Batch:
        return {name: value for name, value in batch.items() if name != "input_ids"}

    def output(self, hidden: Tensor, batch: Batch) -> Tensor:
        return hidden

    def _gguf_spec(self) -> GgufSpec:
        return gguf_spec(self.config, self.tied, self.tokenizer, self.directory)

    def _onnx_specs(self) -> Mapping[str, OnnxSpec]:
        return onnx_specs(self, self.config)

    def _as_ggml(self) -> "T5":
        return replace(self, activation=GatedGelu()) if self.config.is_gated_act else self


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return tokens and mask, int64 [rows, longest]."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def _refuse_endings(path: Path, config: Config, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise InputError where it is not known how either half's tokens begin and end."""
    start = getattr(config, "decoder_start_token_id", None)
    if not isinstance(start, int) or not 0 <= start < config.vocab_size:
        raise InputError(
            f"{path}: found decoder_start_token_id {start!r}, expected the token that the decoder begins with"
        )
    ids: list[int] = tokenizer("a")["input_ids"]
    if (
        tokenizer.eos_token_id is None
        or ids.count(tokenizer.eos_token_id) != 1
        or ids[-1] != tokenizer.eos_token_id
    ):
        raise InputError(
            f"{path.parent}: its tokenizer gives a text the tokens "
            f"{tokenizer.convert_ids_to_tokens(ids)}, expected {tokenizer.eos_token} at the end"
        )


def open_family(directory: Path, model_type: str) -> T5:
    """Open a model's directory."""
    return T5.open(directory)
