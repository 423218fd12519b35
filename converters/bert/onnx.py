"""BERT as one module, for export: the family's own blocks in a row, under their canonical names."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from epmq_export.models.family import Batch, Block
from epmq_export.tensors.source import TensorSource


class Encoder(nn.Module):
    """A module from input_ids, attention_mask and token_type_ids (int64 [batch, sequence]) to hidden states
    [batch, sequence, width] and the output [batch, width].

    It runs the same blocks as the reference, so that only the exporter can make an exported graph differ.
    """

    def __init__(
        self, blocks: Sequence[Block], output: Callable[[Tensor, Batch], Tensor], source: TensorSource
    ) -> None:
        super().__init__()
        self._blocks, self._output = tuple(blocks), output
        stem, *layers = blocks
        self.embeddings = stem.build()
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(layer.build() for layer in layers)
        self.load_state_dict({name: source.load(name).float() for name in self.state_dict()}, assign=True)
        self.eval()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor
    ) -> tuple[Tensor, Tensor]:
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        hidden = None
        for block in self._blocks:
            hidden = block.run(self.get_submodule(block.name), hidden, batch)
        assert hidden is not None  # A family has at least its stem.
        return hidden, self._output(hidden, batch)
