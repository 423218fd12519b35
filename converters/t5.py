"""T5, of both versions: the first (a plain feed-forward part, a head that is the embeddings) and 1.1 with FLAN (a gated one, a head of its own)."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config
from transformers.models.t5.modeling_t5 import T5Attention, T5Block, T5LayerNorm

from converters.ggml_gelu import GatedGelu
from converters.gguf_tokenizer import agreement
from converters.t5_answers import ANSWER, answers
from converters.t5_gguf import gguf_spec
from converters.t5_onnx import onnx_specs
from converters.tokenizers import fast_tokenizer
from epmq_export.data.sample import Passage, Sample, text_of
from epmq_export.errors import InputError
from epmq_export.family import Batch, Block, GgufSpec, OnnxSpec, TensorSource
from epmq_export.json_file import read_json
from epmq_export.rms_norm import RmsNorm

SHARED, HEAD = "shared.weight", "lm_head.weight"
TABLE = "0.layer.0.SelfAttention.relative_attention_bias"
# Tokens that it was trained on, where the config does not say; positions are relative, so it is no bound of the model's own.
POSITIONS = 512
# The distance past which all positions share a bucket: llama.cpp has it in its code.
DISTANCE = 128
Stack = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Stem:
    """The encoder's embeddings: int64 [batch, length] -> [batch, length, width]. Nothing of it is calibrated."""

    config: T5Config
    name: str = "encoder.embeddings"
    prefix: str = ""
    steps: tuple[tuple[str, ...], ...] = ()

    def build(self) -> nn.Module:
        with torch.device("meta"):
            module = nn.Module()
            module.shared = nn.Embedding(self.config.vocab_size, self.config.d_model)
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        result: Tensor = module.get_submodule("shared")(batch["input_ids"])
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return batch["attention_mask"].float()


@dataclass(frozen=True)
class Layer:
    """One layer of a stack, with the table of relative positions, which the stack's first layer has for all of them.

    The encoder's carry its own states, [batch, encoder length, width]; the decoder's the encoder's states and then their own, one behind the
    other along the length, since cross attention reads the former.
    """

    config: T5Config
    """The stack's own."""

    index: int
    buckets: Tensor = field(compare=False, repr=False)
    """Of the stack, by the distance of two tokens (`_buckets`)."""

    approximate: nn.Module | None = None
    """What stands in for the activation."""

    @property
    def stack(self) -> Stack:
        return "decoder" if self.config.is_decoder else "encoder"

    @property
    def name(self) -> str:
        return f"{self.stack}.block.{self.index}"

    @property
    def prefix(self) -> str:
        return f"{self.stack}.block."

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        of_layer = [("0.layer_norm",), tuple(f"0.SelfAttention.{which}" for which in "qkv"), ("0.SelfAttention.o",)]
        if self.config.is_decoder:
            cross = "1.EncDecAttention"
            of_layer += [("1.layer_norm",), (f"{cross}.q",), (f"{cross}.k", f"{cross}.v"), (f"{cross}.o",)]
        last = len(self._parts) - 1
        first = ("wi_0", "wi_1") if self.config.is_gated_act else ("wi",)
        of_layer += [(f"{last}.layer_norm",), tuple(f"{last}.DenseReluDense.{which}" for which in first), (f"{last}.DenseReluDense.wo",)]
        return tuple(tuple(f"{self.index}.layer.{path}" for path in step) for step in of_layer)

    @property
    def _parts(self) -> tuple[str, ...]:
        return ("self", "cross", "feed-forward") if self.config.is_decoder else ("self", "feed-forward")

    def build(self) -> nn.Module:
        with torch.device("meta"):
            module = nn.Module()
            block = _with_rms_norms(T5Block(self.config, self.index == 0, self.index))
            if self.approximate is not None:
                block.get_submodule(f"layer.{len(self._parts) - 1}.DenseReluDense").act = self.approximate
            module.add_module(str(self.index), block)
            if self.index > 0:
                inner: nn.Module = module
                *path, last = TABLE.split(".")
                for part in path:
                    inner.add_module(part, nn.Module())
                    inner = inner.get_submodule(part)
                inner.add_module(last, nn.Embedding(self.config.relative_attention_num_buckets, self.config.num_heads))
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        read = batch["attention_mask"][:, None, None].bool()
        encoder, states = in_two(hidden, batch) if self.config.is_decoder else (None, hidden)
        places = torch.arange(states.shape[1], device=hidden.device)
        bias = self.bias(module, places, states.shape[1])
        if encoder is None:
            return self.go_on(module, states, read, bias)
        behind = (places[:, None] >= places[None])[None, None] & batch["decoder_attention_mask"][:, None, None].bool()
        return torch.cat((encoder, self.go_on(module, states, behind, bias, (encoder, read))), 1)

    def go_on(
        self, module: nn.Module, hidden: Tensor, read: Tensor, bias: Tensor, cross: tuple[Tensor, Tensor] | None = None, past: object | None = None
    ) -> Tensor:
        """The stack's next states, [batch, new, width], of tokens that read those that `read` says, bool [batch, 1, 1 or new, all]; of a decoder
        with the encoder's states and which of these are read, or with a cache that has the keys and values of both."""
        result: Tensor = module.get_submodule(str(self.index))(hidden, read, bias, *(cross or ()), past_key_values=past)[0]
        return result

    def bias(self, module: nn.Module, places: Tensor, length: int) -> Tensor:
        """What is added to the attention's scores by distance, [1, heads, new, length], of tokens at `places` [new] among `length`."""
        distances = torch.arange(length, device=places.device)[None] - places[:, None]
        found: Tensor = module.get_submodule(TABLE)(self.buckets.to(places.device)[distances.clamp(-DISTANCE, DISTANCE) + DISTANCE])
        return found.permute(2, 0, 1)[None]

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        """Of the encoder's tokens where a step reads those, as keys and values of cross attention do."""
        of_encoder = not self.config.is_decoder or step[0].endswith("EncDecAttention.k")
        return batch["attention_mask" if of_encoder else "decoder_attention_mask"].float()


@dataclass(frozen=True)
class Turn:
    """From the encoder to the decoder: the former's last norm, and the embeddings of what the latter is given, behind it."""

    config: T5Config
    name: str = "decoder.embeddings"
    prefix: str = ""
    steps: tuple[tuple[str, ...], ...] = (("encoder.final_layer_norm",),)

    def build(self) -> nn.Module:
        with torch.device("meta"):
            module, encoder = nn.Module(), nn.Module()
            encoder.final_layer_norm = RmsNorm(self.config.d_model, self.config.layer_norm_epsilon)
            module.encoder = encoder
            module.shared = nn.Embedding(self.config.vocab_size, self.config.d_model)
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        normalised: Tensor = module.get_submodule("encoder.final_layer_norm")(hidden)
        return torch.cat((normalised, module.get_submodule("shared")(batch["decoder_input_ids"])), 1)

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return batch["attention_mask"].float()


@dataclass(frozen=True)
class Head:
    """The decoder's last norm, and for the rows that are read the scores of all tokens: by a matrix of its own, or by the embeddings, of what is
    then divided by the root of the width."""

    config: T5Config
    tied: bool
    name: str = "head"
    prefix: str = ""
    steps: tuple[tuple[str, ...], ...] = (("decoder.final_layer_norm",),)

    @property
    def _scores(self) -> str:
        return "shared" if self.tied else "lm_head"

    def build(self) -> nn.Module:
        width = self.config.d_model
        with torch.device("meta"):
            module, decoder = nn.Module(), nn.Module()
            decoder.final_layer_norm = RmsNorm(width, self.config.layer_norm_epsilon)
            module.decoder = decoder
            module.add_module(self._scores, nn.Linear(width, self.config.vocab_size, bias=False))
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        return self.scores(module, in_two(hidden, batch)[1], batch["read"].bool())

    def scores(self, module: nn.Module, states: Tensor, read: Tensor | None = None) -> Tensor:
        """Of the decoder's states [batch, length, width], for the rows that are read, [rows, vocabulary], or for all [batch, length, vocabulary]."""
        normalised = module.get_submodule("decoder.final_layer_norm")(states)
        normalised = normalised if read is None else normalised[read]
        # Not the module's own call: in an exported model the embeddings' own module holds the weight.
        weight: Tensor = module.get_parameter(f"{self._scores}.weight")
        return nn.functional.linear(normalised * self.config.d_model**-0.5 if self.tied else normalised, weight)

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return batch["decoder_attention_mask"].float()


@dataclass(frozen=True)
class T5:
    """`Passage`s have their context in the encoder and their target in the decoder, each with the token that ends it; of a text, which is all the
    encoder's, the decoder's first step is read."""

    directory: Path
    config: T5Config
    tied: bool
    start: int
    """The token that the decoder begins with."""

    tokenizer: PreTrainedTokenizerFast
    max_length: int
    """Of either half, with the token that ends it."""

    activation: nn.Module | None = field(default=None, compare=False, repr=False)
    """What stands in for the config's."""

    name: str = "t5"
    modality: Literal["language"] = "language"
    runtimes: Mapping[str, str] = field(default_factory=lambda: {"gguf": "llama.cpp", "onnx": "onnxruntime"})
    halves: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    text_tower: None = None
    logit_scale: None = None

    @classmethod
    def open(cls, directory: Path) -> "T5":
        path = directory / "config.json"
        stored = read_json(path)
        try:
            config: Any = copy.deepcopy(T5Config.from_pretrained(directory))
        except Exception as error:  # the library's checks raise a class of their own for every mistake
            raise InputError(f"{path}: found no config of a t5 ({' '.join(str(error).split())})") from None
        _refuse_unsupported(path, config)
        config._attn_implementation = "sdpa"
        tokenizer = fast_tokenizer(directory)
        _refuse_endings(path, config, tokenizer)
        # The library ties whatever a config says, and since its version 5 writes that it does, even for a model with a head of its own: what
        # tells such a one is then that its outputs are not scaled.
        tied = stored.get("tie_word_embeddings") is not False and stored.get("scale_decoder_outputs") is not False
        limits = (getattr(config, "n_positions", None) or POSITIONS, tokenizer.model_max_length)
        return cls(directory, config, tied, config.decoder_start_token_id, tokenizer, min(limits))

    @property
    def embeddings(self) -> tuple[str, ...]:
        return (SHARED,) if self.tied else (SHARED, HEAD)

    @property
    def blocks(self) -> Sequence[Block]:
        return (*self.encoder, *self.decoder)

    @property
    def encoder(self) -> Sequence[Block]:
        """What depends on the encoder's tokens alone."""
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
        depth = self.config.num_layers if stack == "encoder" else self.config.num_decoder_layers or self.config.num_layers
        config = copy.deepcopy(self.config)
        config.is_decoder, config.num_layers = stack == "decoder", depth
        buckets = _buckets(config)
        return [Layer(config, i, buckets, self.activation) for i in range(depth)]

    def canonical(self, name: str) -> str | None:
        """As transformers names a model with a head. The embeddings are one tensor under each of their names, as is a head that is tied to them.

        None for the table of relative positions of cross attention, which old checkpoints hold and nothing reads.
        """
        if name in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight") or (name == HEAD and self.tied):
            return SHARED
        if name.endswith("EncDecAttention.relative_attention_bias.weight"):
            return None
        return name if name in (SHARED, HEAD) or name.startswith(("encoder.", "decoder.")) else None

    def truncate(self, sample: Sample) -> Sample:
        """Texts, contexts and targets lose their ends."""
        if isinstance(sample, Passage):
            return Passage(self._cut(sample.context), self._cut(sample.target))
        return self._cut(text_of(sample))

    def _cut(self, text: str) -> str:
        encoded = self.tokenizer(text, return_offsets_mapping=True)
        if len(encoded["input_ids"]) <= self.max_length:
            return text
        return text[: max((end for _, end in encoded["offset_mapping"][: self.max_length - 1]), default=0)]

    def targets(self, passage: Passage) -> list[int]:
        """With the token that ends it, so that an empty target has one."""
        return self._ids(passage.target)

    def passages(self, source: TensorSource, samples: Sequence[Sample], device: torch.device) -> Sequence[Sample]:
        """A text becomes a passage: its target is what the model with the source's weights, taken for an expert of what it is for, goes on with
        when it takes the likeliest token each time, up to 16 tokens. Passages stay as they are."""
        texts = [sample for sample in samples if isinstance(sample, str)]
        found = dict(zip(texts, self.continued(source, texts, ANSWER, device), strict=True))
        return [found[sample] if isinstance(sample, str) else sample for sample in samples]

    def continued(self, source: TensorSource, texts: Sequence[str], limit: int, device: torch.device) -> list[Passage]:
        """Each text with the source's greedy answer of up to `limit` tokens, the one that ends it counted.

        An answer is text, which has no trace of a cut at the limit: as a target it is ended where it was cut, and tokenised anew.
        """
        found = answers(self.encoder, self.decoder, source, self.batches, texts, limit, device, (self.start, self.tokenizer.eos_token_id))
        special = {self.tokenizer.eos_token_id, self.tokenizer.pad_token_id}
        return [Passage(text, str(self.tokenizer.decode([token for token in ids if token not in special]))) for text, ids in zip(texts, found, strict=True)]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def _encode(self, sample: Sample) -> tuple[list[int], list[int]]:
        """What the encoder is given, and what the decoder is given: the start, and of a target all tokens but the last."""
        if isinstance(sample, Passage):
            return self._ids(sample.context), [self.start, *self.targets(sample)[:-1]]
        return self._ids(text_of(sample)), [self.start]

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        """`read` marks the decoder's tokens whose successors are scored: all that are no padding."""
        for first in range(0, len(samples), size):
            encoded = [self._encode(sample) for sample in samples[first : first + size]]
            ids, mask = _padded([encoder for encoder, _ in encoded])
            decoder_ids, decoder_mask = _padded([decoder for _, decoder in encoded])
            yield {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": decoder_ids, "decoder_attention_mask": decoder_mask, "read": decoder_mask}

    def later(self, batch: Batch) -> Batch:
        return {name: value for name, value in batch.items() if name != "input_ids"}

    def output(self, hidden: Tensor, batch: Batch) -> Tensor:
        return hidden

    def agreement(self) -> Callable[[str], bool]:
        return agreement(self.tokenizer)

    def gguf(self) -> GgufSpec:
        return gguf_spec(self.config, self.tied, self.tokenizer, self.directory)

    def onnx(self) -> Mapping[str, OnnxSpec]:
        return onnx_specs(self, self.config)

    def approximate(self) -> "T5":
        return replace(self, activation=GatedGelu()) if self.config.is_gated_act else self


def in_two(hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The encoder's states and the decoder's, of what the decoder's blocks carry."""
    length = batch["attention_mask"].shape[1]
    return hidden[:, :length], hidden[:, length:]


def _buckets(config: T5Config) -> Tensor:
    """The row of the table of relative positions by distance, int64 [2 DISTANCE + 1], from DISTANCE tokens before to as many behind.

    Found once, here: it takes a logarithm, whose last bit, and with it the bucket of a power of two, differs between runtimes.
    """
    bucket: Any = T5Attention._relative_position_bucket
    distances = torch.arange(-DISTANCE, DISTANCE + 1)
    found: Tensor = bucket(distances, not config.is_decoder, config.relative_attention_num_buckets, config.relative_attention_max_distance)
    return found


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Tokens and mask, int64 [rows, longest]."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    return ids, mask


def _with_rms_norms(module: nn.Module) -> nn.Module:
    """The library's own norms replaced by the one that calibration knows."""
    for name, child in [*module.named_modules()]:
        if isinstance(child, T5LayerNorm):
            module.set_submodule(name, RmsNorm(len(child.weight), child.variance_epsilon))
    return module


def _refuse_unsupported(path: Path, config: Any) -> None:  # noqa: ANN401 - its class declares only some of its keys
    """InputError for what llama.cpp, or the blocks here, would compute otherwise."""
    if config.feed_forward_proj not in ("relu", "gated-gelu"):
        raise InputError(f"{path}: found feed_forward_proj {config.feed_forward_proj!r}, expected 'relu' or 'gated-gelu'")
    expected = {"relative_attention_max_distance": DISTANCE, "is_encoder_decoder": True}
    for key, value in expected.items():
        if getattr(config, key) != value:
            raise InputError(f"{path}: found {key} {getattr(config, key)!r}, expected {value!r}: family t5 has no other")


def _refuse_endings(path: Path, config: Any, tokenizer: PreTrainedTokenizerFast) -> None:  # noqa: ANN401
    """InputError where it is not known how either half's tokens begin and end."""
    start = getattr(config, "decoder_start_token_id", None)
    if not isinstance(start, int) or not 0 <= start < config.vocab_size:
        raise InputError(f"{path}: found decoder_start_token_id {start!r}, expected the token that the decoder begins with")
    ids: list[int] = tokenizer("a")["input_ids"]
    if tokenizer.eos_token_id is None or ids.count(tokenizer.eos_token_id) != 1 or ids[-1] != tokenizer.eos_token_id:
        raise InputError(
            f"{path.parent}: its tokenizer gives a text the tokens {tokenizer.convert_ids_to_tokens(ids)}, expected {tokenizer.eos_token} at the end"
        )
