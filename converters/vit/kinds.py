"""The differences between ViT, DeiT and DINOv2."""

from dataclasses import dataclass

from torch import nn

from converters.shared.library import module_class
from converters.vit.names import STACKS


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
    """The tokens before the patches; the first is the one that the output is read off."""

    @property
    def embeddings(self) -> type[nn.Module]:
        return module_class(self.name, f"{self.library}Embeddings")

    @property
    def layer(self) -> type[nn.Module]:
        return module_class(self.name, f"{self.library}Layer")

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        first, second = self.norms
        attention = (
            (first,),
            ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
            ("attention.o_proj",),
        )
        return (*attention, (second,), ("mlp.fc1",), ("mlp.fc2",))


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
    )
}
