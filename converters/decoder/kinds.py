"""The architectures of decoder language models, and the names of their parts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn
from transformers import (
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)
from transformers.models.gemma3.modeling_gemma3 import Gemma3DecoderLayer, Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer, MistralRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RotaryEmbedding
from transformers.models.smollm3.modeling_smollm3 import SmolLM3DecoderLayer, SmolLM3RotaryEmbedding


@dataclass(frozen=True)
class Turns:
    """What llama.cpp has in its code of a key of the config that has a value for each layer."""

    values: tuple[object, ...]
    """The values of the first layers, which come again and again."""

    told: str
    """The same in words."""


@dataclass(frozen=True)
class Kind:
    """The names of one architecture's parts."""

    name: str
    config: type[PreTrainedConfig]
    layer: type[nn.Module]
    rotary: type[nn.Module]
    architecture: str
    """The name of the architecture in GGUF."""

    offset: float = 0.0
    """The number that its norms add to their weights."""

    scaled: bool = False
    """Whether embeddings are multiplied by the root of their width."""

    feed_forward_norms: tuple[str, ...] = ("post_attention_layernorm",)
    """The norms between the attention and the feed-forward part, in the order of the data."""

    last: tuple[str, ...] = ()
    """The norms after the feed-forward part."""

    head_norms: tuple[str, ...] = ()
    """The norms of each head's queries and keys, within the attention."""

    biased: tuple[str, ...] = ()
    """The linears that have biases whatever the config says."""

    interleaved: bool = False
    """Whether the rows of q and k stand in GGUF in pairs of neighbours, as llama.cpp rotates them."""

    turns: Mapping[str, Turns] = field(default_factory=dict)
    """The keys of the config that give each layer a value for which GGUF has no key, but llama.cpp a rule."""

    @property
    def norms(self) -> tuple[str, ...]:
        """Return the norms of a layer, in the order of the data."""
        return ("input_layernorm", *self.feed_forward_norms, *self.last)

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        attention = (
            ("input_layernorm",),
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            ("self_attn.o_proj",),
        )
        norms = tuple((norm,) for norm in self.feed_forward_norms)
        return (
            *attention,
            *norms,
            ("mlp.gate_proj", "mlp.up_proj"),
            ("mlp.down_proj",),
            *((norm,) for norm in self.last),
        )


_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "llama",
            config=LlamaConfig,
            layer=LlamaDecoderLayer,
            rotary=LlamaRotaryEmbedding,
            architecture="llama",
            interleaved=True,
        ),
        Kind(
            "mistral",
            config=MistralConfig,
            layer=MistralDecoderLayer,
            rotary=MistralRotaryEmbedding,
            architecture="llama",
            interleaved=True,
        ),
        Kind(
            "qwen2",
            config=Qwen2Config,
            layer=Qwen2DecoderLayer,
            rotary=Qwen2RotaryEmbedding,
            architecture="qwen2",
            biased=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ),
        Kind(
            "qwen3",
            config=Qwen3Config,
            layer=Qwen3DecoderLayer,
            rotary=Qwen3RotaryEmbedding,
            architecture="qwen3",
            head_norms=_HEAD_NORMS,
        ),
        Kind(
            "gemma3_text",
            config=Gemma3TextConfig,
            layer=Gemma3DecoderLayer,
            rotary=Gemma3RotaryEmbedding,
            architecture="gemma3",
            offset=1.0,
            scaled=True,
            feed_forward_norms=("post_attention_layernorm", "pre_feedforward_layernorm"),
            last=("post_feedforward_layernorm",),
            head_norms=_HEAD_NORMS,
            turns={
                "layer_types": Turns(
                    (*["sliding_attention"] * 5, "full_attention"), "five sliding ones and a full one in turn"
                )
            },
        ),
        Kind(
            "smollm3",
            SmolLM3Config,
            SmolLM3DecoderLayer,
            SmolLM3RotaryEmbedding,
            "smollm3",
            interleaved=True,
            turns={"no_rope_layers": Turns((1, 1, 1, 0), "three ones and a zero in turn")},
        ),
    )
}


# The kinds by the architecture in a GGUF file. Mistral's files name llama.
ARCHITECTURES = {kind.architecture: kind for kind in KINDS.values() if kind.name != "mistral"}
