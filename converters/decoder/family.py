"""Decoder language models of the kinds in kinds.py."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from converters.decoder.attention import CAPPED
from converters.decoder.blocks import SLIDING, Head, Layer, Stem
from converters.decoder.gguf import gguf_spec
from converters.decoder.kinds import KINDS, Kind
from converters.decoder.layout import CAPS
from converters.decoder.names import EMBEDDINGS, HEAD, naming
from converters.decoder.onnx import onnx_spec
from converters.decoder.rotations import longest, rotations
from converters.shared.batches import parts
from converters.shared.config import Config, load_config, refuse_other_values
from converters.shared.dequantised import dequantised
from converters.shared.library import config_class
from converters.tokenizers.chat import as_chat, as_passage
from converters.tokenizers.for_llama_cpp import agreement
from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.models.family import Batch, Block, Export, Language
from epmq_export.models.samples import Passage, Question, Sample, shown, text_of
from epmq_export.models.specs import GgufExport, GgufSpec, OnnxExport, OnnxSpec
from epmq_export.models.tokenizer import fast_tokenizer
from epmq_export.tensors.modules import MODULES
from epmq_export.tensors.source import TensorSource

# The most tokens of a calibration or evaluation text. More teach a solve little, and the cost of attention
# grows with their square.
LONGEST = 2048
GENERATION = "generation_config.json"


@dataclass(frozen=True)
class Decoder:
    """A model of one kind. Its samples are texts, passages and questions, all read by one stack of layers."""

    directory: Path
    kind: Kind
    config: Config
    tokenizer: PreTrainedTokenizerFast
    rotary: nn.Module = field(compare=False, repr=False)
    max_length: int
    stops: frozenset[int] = frozenset()
    """The tokens that end an answer by generation_config.json."""

    as_ggml: bool = False
    frozen: tuple[str, ...] = ()
    zero_shot: None = None
    classifiers: None = None
    images: None = None

    @classmethod
    def open(cls, directory: Path, kind: Kind) -> "Decoder":
        """Read the config and the tokenizer of a model directory.

        Raises InputError for settings that this family does not have.
        """
        path = directory / "config.json"
        config = load_config(kind.name, path, config_class(kind.name))
        if kind.capped and config.attn_logit_softcapping is not None:
            config._attn_implementation = CAPPED
        rotary = rotations(path, kind, config)
        _refuse_unsupported(path, kind, config)
        tokenizer = fast_tokenizer(directory)
        window = config.sliding_window if kind.windows == "bound" else None
        limits = (LONGEST, longest(config), tokenizer.model_max_length, window)
        return cls(
            directory=directory,
            kind=kind,
            config=config,
            tokenizer=tokenizer,
            rotary=rotary,
            stops=_stops(directory / GENERATION),
            max_length=min(limit for limit in limits if limit),
        )

    @property
    def name(self) -> str:
        return self.kind.name

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
                spec=self.gguf_spec,
            ),
            "onnx": OnnxExport(
                runtimes=("onnxruntime",),
                clients=("transformers.js", "onnxruntime-genai"),
                computed=lambda: self,
                specs=self._onnx_specs,
                # There every expert of a mixture computes every token.
                by_default=not self.kind.mixed,
            ),
            "safetensors": dequantised(self),
        }

    @property
    def tied(self) -> bool:
        """Return whether the embeddings are also the head."""
        return bool(self.config.tie_word_embeddings)

    @property
    def embeddings(self) -> tuple[str, ...]:
        return (EMBEDDINGS,) if self.tied else (EMBEDDINGS, HEAD)

    @property
    def blocks(self) -> Sequence[Block]:
        return (self.stem, *self.layers, self.head)

    @property
    def encoder(self) -> Sequence[Block]:
        """Return no block, because every token's hidden state depends on those of an answer."""
        return ()

    @property
    def decoder(self) -> Sequence[Block]:
        return self.blocks

    @property
    def stem(self) -> Stem:
        return Stem(self.kind, self.config)

    @property
    def layers(self) -> Sequence[Layer]:
        return [
            Layer(kind=self.kind, config=self.config, index=i, rotary=self.rotary, as_ggml=self.as_ggml)
            for i in range(self.config.num_hidden_layers)
        ]

    @property
    def head(self) -> Head:
        return Head(self.kind, self.config, self.tied)

    def canonical(self, name: str) -> str | None:
        """Return the name as transformers has it for a model with a head; a head that is the embeddings
        counts as these.
        """
        known = naming({"model_type": self.name}).canonical(name)
        return EMBEDDINGS if known == HEAD and self.tied else known

    def truncate(self, sample: Sample) -> Sample:
        """Cut what does not fit: a text loses its end, a passage the beginning of its context, a question its
        beginning; InputError where an answer leaves it no room.
        """
        if isinstance(sample, Question):
            if sample.limit >= self.max_length:
                raise InputError(
                    f"{self.directory}: found answers of up to {sample.limit} tokens, expected fewer than "
                    f"the {self.max_length} that it takes"
                )
            return replace(
                sample, text=self._without_beginning(sample.text, "", self.max_length - sample.limit)
            )
        if not isinstance(sample, Passage):
            text = text_of(sample)
            return text[: self._end(text, self.max_length)]
        target = sample.target[: self._end(sample.target, self.max_length - 1)]
        return Passage(self._without_beginning(sample.context, target, self.max_length), target)

    def _without_beginning(self, context: str, target: str, limit: int) -> str:
        """Return as much of a context as has `limit` tokens with the target."""
        whole = self.tokenizer(context + target, return_offsets_mapping=True)
        spare = len(whole["input_ids"]) - limit
        if spare <= 0:
            return context
        # The first tokens of the context go. Those without a text, such as the one that begins a text, come
        # again when what is left is tokenised.
        starts = [start for start, end in whole["offset_mapping"] if end > start]
        return context[starts[min(spare, len(starts) - 1)] :]

    def _end(self, text: str, tokens: int) -> int:
        """Return the place in a text where its first `tokens` tokens end."""
        encoded = self.tokenizer(text, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"][:tokens]
        return (
            len(text) if len(encoded["input_ids"]) <= tokens else max((end for _, end in offsets), default=0)
        )

    def targets(self, passage: Passage) -> list[int]:
        ids, start = self._encode(passage)
        return ids[start:]

    def passages(
        self, source: TensorSource, samples: Sequence[Sample], device: torch.device
    ) -> Sequence[Sample]:
        """Return them as they are: all of a text is the decoder's to read."""
        return samples

    @property
    def ends(self) -> frozenset[int]:
        """Return the end token of the tokenizer, and those of the config and of generation_config.json, which
        may have several.
        """
        return self.stops | _tokens(self.tokenizer.eos_token_id) | _tokens(self.config.eos_token_id)

    def grown(self, batch: Batch, found: Tensor) -> Batch:
        """Put the tokens `found` behind each text's last token, before its padding. Tokens behind the end of
        an answer do no harm.
        """
        more = found.shape[1]
        lengths = batch["attention_mask"].sum(1, keepdim=True)
        grown = {
            name: torch.cat((batch[name], torch.zeros_like(found)), 1)
            for name in ("input_ids", "attention_mask")
        }
        places = lengths + torch.arange(more)
        grown["input_ids"].scatter_(1, places, found)
        grown["attention_mask"].scatter_(1, places, 1)
        return {**grown, "read": torch.zeros_like(grown["input_ids"]).scatter_(1, lengths + more - 1, 1)}

    def chat(self, prompt: str) -> str:
        return as_chat(self.tokenizer, self.directory, prompt)

    def conversation(self, messages: Sequence[Mapping[str, Any]]) -> Sample:
        return as_passage(self.tokenizer, self.directory, messages)

    def said(self, answer: Sequence[int]) -> str:
        """Return the answer up to the first line's end: a model that was not taught to stop goes on with
        lines of its own.
        """
        text = str(self.tokenizer.decode(list(answer), skip_special_tokens=True)).strip()
        return text.split("\n", 1)[0].rstrip()

    def _encode(self, sample: Sample) -> tuple[list[int], int]:
        """Return the tokens of a sample, and the place of the first that is to be predicted: the one after
        the last, for a text.

        Context and target are tokenised in one piece, and the context's own tokens are counted off, as
        harnesses for language models do it.
        """
        if isinstance(sample, Passage):
            ids, start = self._ids(sample.context + sample.target), max(len(self._ids(sample.context)), 1)
        else:
            ids = self._ids(text_of(sample))
            start = len(ids)
        if not ids or (isinstance(sample, Passage) and start >= len(ids)):
            raise InputError(
                f"{self.directory}: found {shown(sample)}, expected a text with tokens to read and to predict"
            )
        return ids, start

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        """Give tokens, mask and `read`, int64 [batch, length], which marks the tokens whose successors are
        scored: the last of a text, and those before each token of a target.
        """
        for part in parts(samples, size):
            encoded = [self._encode(sample) for sample in part]
            shape = (len(encoded), max(len(ids) for ids, _ in encoded))
            batch = {
                name: torch.zeros(shape, dtype=torch.int64)
                for name in ("input_ids", "attention_mask", "read")
            }
            for row, (ids, start) in enumerate(encoded):
                batch["input_ids"][row, : len(ids)] = torch.tensor(ids)
                batch["attention_mask"][row, : len(ids)] = 1
                batch["read"][row, start - 1 : max(start, len(ids) - 1)] = 1
            yield batch

    def later(self, batch: Batch) -> Batch:
        return {name: batch[name] for name in ("attention_mask", "read")}

    def output(self, hidden: Tensor, batch: Batch) -> Tensor:
        return hidden

    def gguf_spec(self) -> GgufSpec:
        """Return the layout in GGUF. Raises InputError for what llama.cpp would compute otherwise."""
        return gguf_spec(self.kind, self.config, self.tokenizer, self.directory, self.rotary)

    def _onnx_specs(self) -> Mapping[str, OnnxSpec]:
        return {"model": onnx_spec(self, self.config)}

    def _as_ggml(self) -> "Decoder":
        return replace(self, as_ggml=True)


def open_family(directory: Path, model_type: str) -> Decoder:
    """Open the directory of a model of the kind. Raises InputError for settings that this family does not
    have, and for a model that embeds texts in place of going on with them.
    """
    if (directory / MODULES).is_file():
        raise InputError(
            f"{directory / MODULES}: found modules of sentence-transformers, expected none: no {model_type} "
            "that embeds texts is known"
        )
    found = Decoder.open(directory, KINDS[model_type])
    _refuse_endings(directory, found.tokenizer)
    return found


def _refuse_unsupported(path: Path, kind: Kind, config: Config) -> None:
    """Raise InputError for what llama.cpp, or the blocks here, would compute otherwise."""
    known: Mapping[str, tuple[object, ...]] = {
        "hidden_act": (kind.activation,),
        "hidden_activation": (kind.activation,),
        "use_bidirectional_attention": (True,) if kind.both_ways else (False, None),
        "mlp_bias": (False,),
        "norm_topk_prob": (kind.whole_shares,),
        "clip_qkv": (None,),
        "decoder_sparse_step": (1,),
        "mlp_only_layers": ([],),
        **({} if kind.capped else dict.fromkeys(CAPS, (None,))),
    }
    refuse_other_values(kind.name, path, config, known)
    _refuse_no_cap(path, config)
    if kind.mixed:
        _refuse_no_mixture(path, config)
    if not kind.partial:
        _refuse_partial(path, kind, config)
    window = getattr(config, "sliding_window", None)
    if kind.has_windows and SLIDING in config.layer_types and not window:
        raise InputError(
            f"{path}: found sliding_window {window!r} beside layer_types with {SLIDING!r}, expected a number"
        )
    # A config without types of layers has no window either, unless it is used.
    sliding = SLIDING in config.layer_types if hasattr(config, "layer_types") else bool(window)
    if kind.windows == "refused" and sliding:
        raise InputError(
            f"{path}: found use_sliding_window true, expected false: llama.cpp gives {kind.name} full "
            "attention"
        )


def _stops(path: Path) -> frozenset[int]:
    """Return the tokens that end an answer by a generation_config.json, if it is there. Raises InputError
    for what are no tokens.
    """
    found = read_json(path).get("eos_token_id") if path.is_file() else None
    several = found if isinstance(found, list) else [found]
    if not all(each is None or (type(each) is int and each >= 0) for each in several):
        raise InputError(f"{path}: found eos_token_id {found!r}, expected a token's id, or several")
    return _tokens(found)


def _tokens(found: object) -> frozenset[int]:
    """Return the tokens of a key that has one, several or none."""
    return frozenset(set(found if isinstance(found, list) else [found]) - {None})


def _refuse_partial(path: Path, kind: Kind, config: Config) -> None:
    """Raise InputError where rotations are those of a part of each head: the library's attention has none."""
    rotations = config.rope_parameters
    parts = [each for each in rotations.values() if isinstance(each, dict)] or [rotations]
    for found in (part.get("partial_rotary_factor", 1) for part in parts):
        if found not in (None, 1):
            raise InputError(
                f"{path}: found partial_rotary_factor {found!r}, expected 1: family {kind.name} has no other"
            )


def _refuse_no_cap(path: Path, config: Config) -> None:
    """Raise InputError for a bound of 0, within which there are no scores."""
    for key in CAPS:
        if getattr(config, key, None) == 0:
            raise InputError(f"{path}: found {key} 0, expected another number or null")


def _refuse_no_mixture(path: Path, config: Config) -> None:
    """Raise InputError where nothing is mixed: one expert alone, or none that is chosen."""
    if config.num_experts < 2:
        raise InputError(f"{path}: found num_experts {config.num_experts}, expected at least 2")
    if not 1 <= config.num_experts_per_tok <= config.num_experts:
        raise InputError(
            f"{path}: found num_experts_per_tok {config.num_experts_per_tok}, expected 1 to "
            f"{config.num_experts}, the number of experts"
        )


def _refuse_endings(directory: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Raise InputError for a tokenizer that ends each text: nothing could go on from there."""
    ids: list[int] = tokenizer("a")["input_ids"]
    if len(ids) > 1 and ids[-1] in tokenizer.all_special_ids:
        raise InputError(
            f"{directory}: its tokenizer ends each text with {tokenizer.convert_ids_to_tokens(ids[-1])}, "
            "expected nothing after it"
        )
