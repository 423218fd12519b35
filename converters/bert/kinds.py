"""The differences between BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT and MPNet."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from converters.bert.names import COUNTED, STACKS
from converters.shared.config import Config
from converters.shared.library import module_class


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One of these models."""

    name: str
    """The `model_type` of its configs."""

    stem_class: str
    """The class of its embeddings in transformers."""

    layer_class: str
    """The class of its layers in transformers."""

    types: bool = True
    """Whether it has embeddings for the types of tokens."""

    reads_types: bool = False
    """Whether the types of tokens are an input. Where they are none, every token has the first type."""

    activation: str = "hidden_act"
    """The key of the config that names the activation."""

    feed_forward: str = "intermediate_size"
    """The key of the config that has the width within the feed-forward part."""

    modules: tuple[str, ...] = (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    )
    """The linears and norms of a layer: queries, keys, values, the attention's output and its norm, both
    linears of the feed-forward part, and the last norm.
    """

    between: str = "Tanh"
    """The class, in torch.nn, of the activation between the two linears of a classifier's head."""

    relative: bool = False
    """Whether attention looks at how far tokens are apart, too, by a table of all layers. No runtime reads
    such a model as GGUF.
    """

    known: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """The values of keys of the config that the library's code takes for granted."""

    @property
    def stack(self) -> str:
        """The beginning of the names of the layers."""
        return STACKS[self.name]

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        return (self.modules[:3], *((module,) for module in self.modules[3:]))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the tensors that a model is given."""
        return ("input_ids", "attention_mask", *(["token_type_ids"] if self.reads_types else []))

    def begin(self, config: Config) -> int:
        """Return the row of the position embeddings that a text's first token gets."""
        return config.pad_token_id + 1 if self.name in COUNTED else 0

    def stem(self, config: Config) -> nn.Module:
        return self._module(self.stem_class, config)

    def layer(self, config: Config) -> nn.Module:
        return self._module(self.layer_class, config)

    def _module(self, name: str, config: Config) -> nn.Module:
        return module_class(self.name.replace("-", "_"), name)(config)


def _like_bert(name: str, library: str) -> Kind:
    return Kind(name=name, stem_class=f"{library}Embeddings", layer_class=f"{library}Layer")


KINDS = {
    kind.name: kind
    for kind in (
        replace(_like_bert("bert", "Bert"), reads_types=True),
        _like_bert("roberta", "Roberta"),
        _like_bert("xlm-roberta", "XLMRoberta"),
        _like_bert("camembert", "Camembert"),
        Kind(
            name="distilbert",
            stem_class="Embeddings",
            layer_class="TransformerBlock",
            types=False,
            activation="activation",
            feed_forward="hidden_dim",
            modules=(
                "attention.q_lin",
                "attention.k_lin",
                "attention.v_lin",
                "attention.out_lin",
                "sa_layer_norm",
                "ffn.lin1",
                "ffn.lin2",
                "output_layer_norm",
            ),
            between="ReLU",
        ),
        Kind(
            name="mpnet",
            stem_class="MPNetEmbeddings",
            layer_class="MPNetLayer",
            types=False,
            modules=(
                "attention.attn.q",
                "attention.attn.k",
                "attention.attn.v",
                "attention.attn.o",
                "attention.LayerNorm",
                "intermediate.dense",
                "output.dense",
                "output.LayerNorm",
            ),
            relative=True,
            known={"relative_attention_num_buckets": (32,), "pad_token_id": (1,)},
        ),
    )
}
