"""The differences between ViT, DeiT, DINOv2, with registers or without, and DINOv3."""

from dataclasses import dataclass

from torch import nn

from converters.shared.config import Config
from converters.shared.library import module_class
from converters.vit.names import STACKS

REGISTERS = "register_tokens"
"""The tokens that have no positions."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One of these models."""

    name: str
    """The `model_type` of its configs, which may also stand before its tensors' names."""

    library: str
    """What the names of their classes begin with in transformers."""

    stack: str
    """The beginning of the names of the layers."""

    norms: tuple[str, str]
    """The norms before the attention, and before the feed-forward part."""

    tokens: tuple[str, ...]
    """The tokens before the patches, each one row or, where the config has a number of them, several; the
    first is the one that the output is read off.
    """

    feed_forward: tuple[str, ...] = ("fc1", "fc2")
    """The linears of the feed-forward part; of one whose config may ask for a gate (`use_gated_mlp`), those
    of one without.
    """

    patches: str = "patch_embeddings.projection"
    """The convolution that makes patches, within the embeddings."""

    last: str = "layernorm"
    """The last norm."""

    activations: tuple[str, ...] = ("gelu",)
    """The activations that models have."""

    rotates: bool = False
    """Whether positions turn queries and keys in each layer, and are no table beside the patches."""

    smooth: bool = False
    """Whether positions of a grid that is smaller than the table's are smoothed."""

    @property
    def embeddings(self) -> type[nn.Module]:
        return module_class(self.name, f"{self.library}Embeddings")

    @property
    def layer(self) -> type[nn.Module]:
        return module_class(self.name, f"{self.library}Layer")

    @property
    def placed(self) -> int:
        """Return how many of the tokens before the patches have positions."""
        return sum(token != REGISTERS for token in self.tokens)

    def before(self, config: Config) -> int:
        """Return how many tokens stand before the patches."""
        return sum(getattr(config, f"num_{token}", 1) for token in self.tokens)

    def steps(self, config: Config) -> tuple[tuple[str, ...], ...]:
        """Return the linears and norms of a layer, in the order of the data."""
        first, second = self.norms
        up, down = (f"mlp.{linear}" for linear in self.feed_forward)
        attention = (
            (first,),
            ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
            ("attention.o_proj",),
        )
        gate = ("mlp.gate_proj",) if getattr(config, "use_gated_mlp", False) else ()
        return (*attention, (second,), (*gate, up), (down,))


_NORMS = ("layernorm_before", "layernorm_after")


KINDS = {
    kind.name: kind
    for kind in (
        Kind(name="vit", library="ViT", stack=STACKS["vit"], norms=_NORMS, tokens=("cls_token",)),
        Kind(
            name="deit",
            library="DeiT",
            stack=STACKS["deit"],
            norms=_NORMS,
            tokens=("cls_token", "distillation_token"),
        ),
        Kind(
            name="dinov2",
            library="Dinov2",
            stack=STACKS["dinov2"],
            norms=("norm1", "norm2"),
            tokens=("cls_token",),
        ),
        Kind(
            name="dinov2_with_registers",
            library="Dinov2WithRegisters",
            stack=STACKS["dinov2_with_registers"],
            norms=("norm1", "norm2"),
            tokens=("cls_token", REGISTERS),
            smooth=True,
        ),
        Kind(
            name="dinov3_vit",
            library="DINOv3ViT",
            stack=STACKS["dinov3_vit"],
            norms=("norm1", "norm2"),
            tokens=("cls_token", REGISTERS),
            feed_forward=("up_proj", "down_proj"),
            patches="patch_embeddings",
            last="norm",
            activations=("gelu", "silu"),
            rotates=True,
        ),
    )
}
