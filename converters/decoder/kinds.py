"""What each architecture of decoder language models calls its parts, and what it does its own way."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from converters.decoder.names import FEED_FORWARD, GATED, OF_EXPERTS, SPARSE
from converters.shared.library import config_class, module_class

SILU, GELU = "silu", "gelu_pytorch_tanh"


@dataclass(frozen=True)
class Turns:
    """What llama.cpp has in its code of a key of the config that has a value for each layer."""

    values: tuple[object, ...]
    """The values of the first layers, which come again and again."""

    told: str
    """The same in words."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The names of one architecture's parts."""

    name: str
    """The `model_type` of its configs."""

    library: str
    """What the names of its classes begin with in transformers."""

    folder: str | None = None
    """The folder of these classes, where it is not their name in small letters."""

    architecture: str
    """What it is in GGUF."""

    activation: str = SILU
    """The activation of the feed-forward part."""

    windows: Literal["bound", "some", "mixed", "refused"] | None = None
    """What a sliding window in the config is here: one that texts are cut to, since it then changes nothing;
    the attention of some layers; that of some whose rotations are others; none of llama.cpp's; or no key of
    the config.
    """

    both_ways: bool = False
    """Whether a token sees those behind it as it sees those before it."""

    head_dim: bool = True
    """Whether the config has the width of a head apart from that of the hidden state."""

    offset: float = 0.0
    """The number that its norms add to their weights."""

    scaled: bool = False
    """Whether embeddings are multiplied by the root of their width."""

    first: tuple[str, ...] = ("input_layernorm",)
    """The norms before the attention."""

    feed_forward_norms: tuple[str, ...] = ("post_attention_layernorm",)
    """The norms between the attention and the feed-forward part, in the order of the data."""

    last: tuple[str, ...] = ()
    """The norms after the feed-forward part."""

    head_norms: tuple[str, ...] = ()
    """The norms of queries and keys, of each head or of all together, within the attention."""

    feed_forward: str = FEED_FORWARD
    """What a checkpoint calls the feed-forward part of a layer."""

    mixed: bool = False
    """Whether its feed-forward parts are mixtures of experts."""

    whole_shares: bool = True
    """Whether the shares of the experts that are chosen for a row are 1 together, or their probabilities
    among all experts.
    """

    shared_heads: bool = True
    """Whether llama.cpp loads it where heads share keys and values."""

    fused: bool = False
    """Whether queries, keys and values come of one linear, and gate and up of one."""

    partial: bool = False
    """Whether its attention may rotate a part of each head."""

    biased: tuple[str, ...] = ()
    """The linears that have biases whatever the config says."""

    interleaved: bool = False
    """Whether the rows of q and k stand in GGUF in pairs of neighbours, as llama.cpp rotates them."""

    multipliers: bool = False
    """Whether the config has numbers that embeddings, products of the attention and residuals are multiplied
    by, and that scores are divided by.
    """

    capped: bool = False
    """Whether the config may have bounds that scores of the attention and of tokens stay within."""

    tied: tuple[bool, ...] = (True, False)
    """With which heads llama.cpp loads it: one that is the embeddings, one of its own."""

    mean_width: int | None = None
    """The number of layers by which llama.cpp tells the model whose attention is scaled by the mean width of
    a head.
    """

    turns: Mapping[str, Turns] = field(default_factory=dict)
    """The keys of the config that give each layer a value for which GGUF has no key, but llama.cpp a rule."""

    @property
    def layer(self) -> type[nn.Module]:
        return self._class("DecoderLayer")

    @property
    def rotary(self) -> type[nn.Module]:
        return self._class("RotaryEmbedding")

    def _class(self, name: str) -> type[nn.Module]:
        return module_class(self.folder or self.library.lower(), f"{self.library}{name}")

    @property
    def gated(self) -> tuple[str, str, str]:
        """The linears of its feed-forward part or, in a mixture, of each expert: gate, up and down."""
        return OF_EXPERTS.get(self.name, GATED)

    @property
    def may_be_biased(self) -> bool:
        """Whether its config says whether the attention has biases."""
        return hasattr(config_class(self.name)(), "attention_bias")

    @property
    def has_windows(self) -> bool:
        """Whether some of its layers may see a window."""
        return self.windows in ("some", "mixed")

    @property
    def norms(self) -> tuple[str, ...]:
        """The norms of a layer, in the order of the data."""
        return (*self.first, *self.feed_forward_norms, *self.last)

    def steps(self, experts: int = 0) -> tuple[tuple[str, ...], ...]:
        """Return the steps of a layer, whose feed-forward part is a mixture of so many experts where it is
        one.
        """
        parts = ("qkv_proj",) if self.fused else ("q_proj", "k_proj", "v_proj")
        *gated, down = ("gate_up_proj", GATED[-1]) if self.fused else self.gated
        mixture = self.feed_forward
        return (
            *((norm,) for norm in self.first),
            tuple(f"self_attn.{part}" for part in parts),
            ("self_attn.o_proj",),
            *((norm,) for norm in self.feed_forward_norms),
            *(
                step
                for inner in ([f"{mixture}.experts.{i}" for i in range(experts)] if self.mixed else [mixture])
                for step in (tuple(f"{inner}.{part}" for part in gated), (f"{inner}.{down}",))
            ),
            *((norm,) for norm in self.last),
        )


_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")
# Gemma's norms behind the attention, before the feed-forward part and behind it.
_AROUND = ("post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")


KINDS = {
    kind.name: kind
    for kind in (
        Kind(name="llama", library="Llama", architecture="llama", interleaved=True),
        Kind(name="mistral", library="Mistral", architecture="llama", windows="bound", interleaved=True),
        Kind(
            name="mixtral",
            library="Mixtral",
            architecture="llama",
            windows="bound",
            interleaved=True,
            feed_forward=SPARSE,
            mixed=True,
        ),
        Kind(
            name="qwen2",
            library="Qwen2",
            architecture="qwen2",
            windows="refused",
            head_dim=False,
            biased=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        ),
        Kind(
            name="qwen3",
            library="Qwen3",
            architecture="qwen3",
            windows="refused",
            head_norms=_HEAD_NORMS,
        ),
        Kind(
            name="qwen3_moe",
            library="Qwen3Moe",
            folder="qwen3_moe",
            architecture="qwen3moe",
            windows="refused",
            head_norms=_HEAD_NORMS,
            mixed=True,
        ),
        Kind(
            name="gemma2",
            library="Gemma2",
            architecture="gemma2",
            activation=GELU,
            windows="some",
            offset=1.0,
            scaled=True,
            feed_forward_norms=_AROUND[:2],
            last=_AROUND[2:],
            capped=True,
            tied=(True,),
            mean_width=46,
            turns={
                "layer_types": Turns(
                    ("sliding_attention", "full_attention"), "a sliding one and a full one in turn"
                )
            },
        ),
        Kind(
            name="gemma3_text",
            library="Gemma3",
            architecture="gemma3",
            activation=GELU,
            windows="mixed",
            offset=1.0,
            scaled=True,
            feed_forward_norms=_AROUND[:2],
            last=_AROUND[2:],
            head_norms=_HEAD_NORMS,
            mean_width=62,
            turns={
                "layer_types": Turns(
                    (*["sliding_attention"] * 5, "full_attention"), "five sliding ones and a full one in turn"
                )
            },
        ),
        Kind(
            name="olmo2",
            library="Olmo2",
            architecture="olmo2",
            head_dim=False,
            first=(),
            last=("post_feedforward_layernorm",),
            head_norms=_HEAD_NORMS,
            tied=(False,),
        ),
        Kind(
            name="olmoe",
            library="Olmoe",
            architecture="olmoe",
            head_dim=False,
            head_norms=_HEAD_NORMS,
            mixed=True,
            whole_shares=False,
            shared_heads=False,
            tied=(False,),
        ),
        Kind(
            name="granite",
            library="Granite",
            architecture="granite",
            head_dim=False,
            multipliers=True,
            interleaved=True,
        ),
        Kind(
            name="phi3",
            library="Phi3",
            architecture="phi3",
            windows="bound",
            head_dim=False,
            fused=True,
            partial=True,
        ),
        Kind(
            name="smollm3",
            library="SmolLM3",
            architecture="smollm3",
            windows="refused",
            interleaved=True,
            turns={"no_rope_layers": Turns((1, 1, 1, 0), "three ones and a zero in turn")},
        ),
    )
}


ARCHITECTURES = {
    architecture: next(kind for kind in KINDS.values() if kind.architecture == architecture)
    for architecture in dict.fromkeys(kind.architecture for kind in KINDS.values())
}
"""The kinds by the architecture in a GGUF file. Where several have the same, the first of them stands: the
files of Mistral name llama.
"""

MIXTURES = {kind.architecture: kind for kind in KINDS.values() if kind.mixed}
"""The kinds of the files that have experts, by architecture."""
