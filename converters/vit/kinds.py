"""What ViT, DeiT and DINOv2 differ in."""

from dataclasses import dataclass

from torch import nn
from transformers import DeiTConfig, Dinov2Config, PreTrainedConfig, ViTConfig
from transformers.models.deit.modeling_deit import DeiTEmbeddings, DeiTLayer
from transformers.models.dinov2.modeling_dinov2 import Dinov2Embeddings, Dinov2Layer
from transformers.models.vit.modeling_vit import ViTEmbeddings, ViTLayer


@dataclass(frozen=True)
class Kind:
    """What the models differ in."""

    name: str
    """The `model_type` of their configs, and what may stand before their tensors' names."""

    config: type[PreTrainedConfig]
    embeddings: type[nn.Module]
    layer: type[nn.Module]
    stack: str
    """What the names of the layers begin with."""

    norms: tuple[str, str]
    """Before the attention, and before the feed-forward."""

    tokens: tuple[str, ...]
    """Those before the patches; the first is the one that the output is read off."""

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
        Kind("vit", ViTConfig, ViTEmbeddings, ViTLayer, "layers", _NORMS, ("cls_token",)),
        Kind(
            "deit",
            DeiTConfig,
            DeiTEmbeddings,
            DeiTLayer,
            "layers",
            _NORMS,
            ("cls_token", "distillation_token"),
        ),
        Kind(
            "dinov2",
            Dinov2Config,
            Dinov2Embeddings,
            Dinov2Layer,
            "encoder.layer",
            ("norm1", "norm2"),
            ("cls_token",),
        ),
    )
}
