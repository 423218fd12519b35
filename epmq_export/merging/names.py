"""The place of a tensor among a model's layers, read from its name."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from epmq_export.tensors.source import TypedSource

_NUMBER = re.compile(r"(?:^|\.)(\d+)\.")
# Names of tensors before the layers: embeddings and their norms. All other tensors outside the layers (a
# final norm, a pooler, a head) come after them.
_BEFORE = re.compile(r"emb(?!ed_out)|(?:^|\.)(?:wte|wpe|shared|cls_token)(?:\.|$)|pre_la?yr?norm")

# Token, position and type embeddings are matrices too, but tables: their rows are looked up, not multiplied.
# A head (GPT-NeoX) and the projections of narrow embeddings (ALBERT, ELECTRA) have names like theirs, but are
# linears.
_TABLE = re.compile(
    r"embed(?!_out\b|ding_hidden_mapping_in\b|dings_project\b)"
    r"|(?:^|\.)(?:wte|wpe|shared|relative_attention_bias)\."
)


def layer_of(tensor: str) -> int | None:
    """Return the layer that a tensor belongs to, the first number in its name; None outside the layers."""
    found = _NUMBER.search(tensor)
    return int(found.group(1)) if found else None


def stack_of(tensor: str) -> str | None:
    """Return the stack of layers that a tensor belongs to: what stands before the layer's number, such as
    `model.layers`. None outside the layers.
    """
    found = _NUMBER.search(tensor)
    return tensor[: found.start()] if found else None


def with_layer(tensor: str, layer: int) -> str:
    """Return the name of the same tensor in another layer."""
    found = _NUMBER.search(tensor)
    return f"{tensor[: found.start(1)]}{layer}{tensor[found.end(1) :]}" if found else tensor


def is_table(tensor: str) -> bool:
    """Return whether a matrix of this name is a table whose rows are looked up, and not the weight of a
    linear.
    """
    return _TABLE.search(tensor) is not None


def comes_before(tensor: str) -> bool:
    """Return whether a tensor outside the layers stands before them."""
    return _BEFORE.search(tensor) is not None


def count_layers(tensors: Iterable[str]) -> dict[str, int]:
    """Return the number of layers of each stack."""
    counts: dict[str, int] = {}
    for tensor in tensors:
        layer, stack = layer_of(tensor), stack_of(tensor)
        if layer is not None and stack is not None:
            counts[stack] = max(counts.get(stack, 0), layer + 1)
    return counts


@dataclass(frozen=True)
class Layers:
    """The layers that one merge makes: the range that gradients run over, and the names of the layers in each
    of its sources.
    """

    counts: Mapping[str, int]
    """The number of layers of each stack, by the stack's name."""

    first: int = 0
    """The number that the first of them has in the merged model."""

    starts: tuple[int, ...] = field(default=())
    """The number that this layer has in each expert. Where this is empty, the numbers are the same."""

    def share(self, tensor: str) -> float:
        """Return 0 in the first layer of its stack and 1 in the last or only one; 0 outside the layers, as in
        mergekit.
        """
        layer, stack = layer_of(tensor), stack_of(tensor)
        if layer is None or stack is None or stack not in self.counts:
            return 0.0
        count = self.counts[stack]
        return (layer - self.first) / (count - 1) if count > 1 else 1.0

    def name_in(self, index: int, tensor: str) -> str:
        """Return the name of the tensor in an expert."""
        layer = layer_of(tensor)
        if layer is None or stack_of(tensor) not in self.counts or not self.starts:
            return tensor
        return with_layer(tensor, layer - self.first + self.starts[index])


def is_indexed(model: TypedSource, tensor: str, size: int) -> bool:
    """Return whether a tensor has one row for each token: it stands outside the layers, has the `size` rows
    that the config gives, and does not have so many by chance.
    """
    other = any(part in tensor for part in ("position", "token_type", "norm", "Norm"))
    return (
        layer_of(tensor) is None
        and not other
        and model.dtype(tensor).is_floating_point
        and model.shape(tensor)[:1] == (size,)
    )
