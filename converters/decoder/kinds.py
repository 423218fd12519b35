"""What each architecture of decoder language models calls its parts."""

from dataclasses import dataclass

from torch import nn
from transformers import (
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.gemma3.modeling_gemma3 import Gemma3DecoderLayer, Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralDecoderLayer, MistralRotaryEmbedding
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, Qwen3RotaryEmbedding


@dataclass(frozen=True)
class Kind:
    """What one architecture calls its parts."""

    name: str
    config: type[PreTrainedConfig]
    layer: type[nn.Module]
    rotary: type[nn.Module]
    architecture: str
    """In GGUF."""

    offset: float = 0.0
    """What its norms add to their weights."""

    scaled: bool = False
    """Whether embeddings are multiplied by the root of their width."""

    feed_forward_norms: tuple[str, ...] = ("post_attention_layernorm",)
    """Norms between the attention and the feed-forward part, in the order of the data."""

    last: tuple[str, ...] = ()
    """Norms after the feed-forward part."""

    head_norms: tuple[str, ...] = ()
    """Norms of each head's queries and keys, within the attention."""

    biased: tuple[str, ...] = ()
    """Linears that have biases whatever the config says."""

    interleaved: bool = False
    """Whether the rows of q and k stand in GGUF as llama.cpp rotates them, in pairs of neighbours."""

    @property
    def norms(self) -> tuple[str, ...]:
        """Of a layer, in the order of the data."""
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
        Kind("llama", LlamaConfig, LlamaDecoderLayer, LlamaRotaryEmbedding, "llama", interleaved=True),
        Kind(
            "mistral", MistralConfig, MistralDecoderLayer, MistralRotaryEmbedding, "llama", interleaved=True
        ),
        Kind(
            "qwen2",
            Qwen2Config,
            Qwen2DecoderLayer,
            Qwen2RotaryEmbedding,
            "qwen2",
            biased=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ),
        Kind("qwen3", Qwen3Config, Qwen3DecoderLayer, Qwen3RotaryEmbedding, "qwen3", head_norms=_HEAD_NORMS),
        Kind(
            "gemma3_text",
            Gemma3TextConfig,
            Gemma3DecoderLayer,
            Gemma3RotaryEmbedding,
            "gemma3",
            offset=1.0,
            scaled=True,
            feed_forward_norms=("post_attention_layernorm", "pre_feedforward_layernorm"),
            last=("post_feedforward_layernorm",),
            head_norms=_HEAD_NORMS,
        ),
    )
}


# By what a GGUF file says: of Mistral that it is a llama.
ARCHITECTURES = {kind.architecture: kind for kind in KINDS.values() if kind.name != "mistral"}
