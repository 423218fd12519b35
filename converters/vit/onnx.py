"""A vision transformer as one module, for export.

It runs the same blocks as the reference, so that only the exporter can make an exported graph differ.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from converters.shared.blocks import Blocks
from epmq_export.models.family import Batch, Block
from epmq_export.tensors.source import TensorSource


class Encoder(Blocks):
    """A module from pixel_values, float32 [batch, 3, height, width], to last_hidden_state [batch, tokens,
    width], normalised; pooler_output [batch, width], its first row; and the family's output [batch, ...]
    where that is another one.
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
