"""The feed-forward part of a mixture: experts like small feed-forward parts, and the router before them."""

from torch import Tensor, nn

from converters.decoder.kinds import Kind
from converters.shared.config import Config
from epmq_export.models.mixture import Mixture


class Expert(nn.Module):
    """A gated feed-forward part, under the names of a checkpoint."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        result: Tensor = self.down_proj(nn.functional.silu(self.gate_proj(rows)) * self.up_proj(rows))
        return result


def mixture(kind: Kind, config: Config) -> Mixture:
    """Return the mixture of one layer."""
    width, inner = config.hidden_size, getattr(config, "moe_intermediate_size", config.intermediate_size)
    return Mixture(
        nn.Linear(width, config.num_experts, bias=False),
        nn.ModuleList(Expert(width, inner) for _ in range(config.num_experts)),
        config.num_experts_per_tok,
        kind.whole_shares,
    )


def experts_of(kind: Kind, config: Config) -> int:
    """Return the number of a layer's experts, 0 where it has one feed-forward part for all rows."""
    return int(config.num_experts) if kind.mixed else 0
