"""The differences between ViT, DeiT and DINOv2."""

from dataclasses import dataclass

from torch import nn
from transformers import DeiTConfig, Dinov2Config, PreTrainedConfig, ViTConfig
from transformers.models.deit.modeling_deit import DeiTEmbeddings, DeiTLayer
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings, Dinov2Layer
from transformers.models.vit.modeling_vit import ViTEmbeddings, ViTLayer


@dataclass(frozen=True)
class Kind:
    """One of these models."""

    name: str
    """The `model_type` of its configs, which may also stand before its tensors' names."""

    config: type[PreTrainedConfig]
    embeddings: type[nn.Module]
    layer: type[nn.Module]
    stack: str
    """The beginning of the names of the layers."""

    norms: tuple[str, str]
    """The norms before the attention and before the feed-forward part."""

    tokens: tuple[str, ...]
    """The tokens before the patches. The output is read off the first."""

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
        Kind(
            "vit",
            config=ViTConfig,
            embeddings=ViTEmbeddings,
            layer=ViTLayer,
            stack="layers",
            norms=_NORMS,
            tokens=("cls_token",),
        ),
        Kind(
            "deit",
            config=DeiTConfig,
            embeddings=DeiTEmbeddings,
            layer=DeiTLayer,
            stack="layers",
            norms=_NORMS,
            tokens=("cls_token", "distillation_token"),
        ),
        Kind(
            "dinov2",
            config=Dinov2Config,
            embeddings=Dinov2Embeddings,
            layer=Dinov2Layer,
            stack="encoder.layer",
            norms=("norm1", "norm2"),
            tokens=("cls_token",),
        ),
    )
}
