"""What a decoder that embeds texts has behind its layers."""

from dataclasses import dataclass

from torch import Tensor, nn

from epmq_export.models.family import Batch
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.models.shapes import shapes_alone


@dataclass(frozen=True, kw_only=True)
class Last:
    """Every token, normalised, which transformers calls the last hidden state."""

    width: int
    eps: float
    offset: float
    """The number that is added to the norm's weights."""

    name: str = "norm"
    prefix: str = "model."
    steps: tuple[tuple[str, ...], ...] = (("norm",),)

    def build(self) -> nn.Module:
        with shapes_alone():
            module = nn.Module()
            module.add_module("norm", RmsNorm(self.width, self.eps, self.offset))
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        result: Tensor = module.get_submodule("norm")(hidden)
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return batch["attention_mask"].float()
