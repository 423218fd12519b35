"""The feed-forward part of a mixture: experts like small feed-forward parts, and the router before them."""

from torch import Tensor, nn

from converters.decoder.kinds import Kind
from converters.shared.config import Config
from epmq_export.models.mixture import Mixture


class Expert(nn.Module):
    """A gated feed-forward part, under the names of a checkpoint."""

    def __init__(self, kind: Kind, width: int, inner: int) -> None:
        super().__init__()
        self._names = kind.gated
        for name, (into, out) in zip(self._names, [(width, inner)] * 2 + [(inner, width)], strict=True):
            self.add_module(name, nn.Linear(into, out, bias=False))

    def forward(self, rows: Tensor) -> Tensor:
        gate, up, down = map(self.get_submodule, self._names)
        result: Tensor = down(nn.functional.silu(gate(rows)) * up(rows))
        return result


class Elsewhere(nn.Module):
    """A submodule that stands under another name, which has its weights."""

    def __init__(self, there: nn.Module) -> None:
        super().__init__()
        self._there = (there,)  # Within a tuple it is no second submodule.

    def forward(self, value: Tensor) -> Tensor:
        result: Tensor = self._there[0](value)
        return result


def mix(layer: nn.Module, kind: Kind, config: Config) -> None:
    """Put the mixture into a layer of the library, which calls it `mlp` whatever a checkpoint does."""
    found = mixture(kind, config)
    layer.set_submodule("mlp", Elsewhere(found))
    layer.set_submodule(kind.feed_forward, found)


def mixture(kind: Kind, config: Config) -> Mixture:
    """Return the mixture of one layer."""
    width, inner = config.hidden_size, getattr(config, "moe_intermediate_size", config.intermediate_size)
    return Mixture(
        nn.Linear(width, config.num_experts, bias=False),
        nn.ModuleList(Expert(kind, width, inner) for _ in range(config.num_experts)),
        config.num_experts_per_tok,
        kind.whole_shares,
    )


def experts_of(kind: Kind, config: Config) -> int:
    """Return the number of a layer's experts, 0 where it has one feed-forward part for all rows."""
    return int(config.num_experts) if kind.mixed else 0
