"""A vision transformer as one module, for export.

It runs what the blocks run, so an exported graph can only differ from the reference by the exporter's doing.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from converters.shared.blocks import Blocks
from epmq_export.models.family import Batch, Block
from epmq_export.tensors.source import TensorSource


class Encoder(Blocks):
    """pixel_values float32 [batch, 3, height, width] -> last_hidden_state [batch, tokens, width], normalised;
    pooler_output [batch, width], its first row; and, where the family's output is another, that, [batch,
    ...].
    """

    def __init__(
        self, blocks: Sequence[Block], output: Callable[[Tensor, Batch], Tensor] | None, source: TensorSource
    ) -> None:
        super().__init__(source, blocks)
        self._tower, self._output = tuple(blocks), output

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        batch = {"pixel_values": pixel_values}
        _, hidden = self.through(self._tower, batch)
        return (hidden, hidden[:, 0], *(() if self._output is None else (self._output(hidden, batch),)))
