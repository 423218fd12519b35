"""A family's blocks as one module, for export: their own modules in a row, each parameter under its canonical
name.

They run what the blocks run, so an exported graph can only differ from the reference by the exporter's doing.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from epmq_export.models.family import Batch, Block
from epmq_export.tensors.source import TensorSource


class Blocks(nn.Module):
    """The modules of the blocks of one or more towers, with a source's weights in float32.

    Raises InputError where the source lacks a weight.
    """

    def __init__(self, source: TensorSource, *towers: Sequence[Block]) -> None:
        super().__init__()
        for block in (block for tower in towers for block in tower):
            _place(self, block.prefix.removesuffix("."), block.build())
        self.load_state_dict({name: source.load(name).float() for name in self.state_dict()}, assign=True)
        self.eval()

    def part(self, prefix: str) -> nn.Module:
        """Return where the modules of a block are."""
        return self.get_submodule(prefix.removesuffix("."))

    def through(self, blocks: Sequence[Block], batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the hidden states before and after a tower's last block."""
        hidden: Tensor | None = None
        before = hidden
        for block in blocks:
            before = hidden
            hidden = block.run(self.part(block.prefix), hidden, batch)
        assert hidden is not None and before is not None  # A tower has a stem and a head.
        return before, hidden


Outputs = Callable[[Tensor, Tensor, Batch], tuple[Tensor, ...]]
"""What a tower gives out, of the hidden states before and after its last block and of the batch."""


class Tower(Blocks):
    """One tower: it is given the batch's tensors in the order of their names `inputs`, and gives
    `outputs`.
    """

    def __init__(
        self, source: TensorSource, blocks: Sequence[Block], inputs: Sequence[str], outputs: Outputs
    ) -> None:
        super().__init__(source, blocks)
        self._blocks, self._inputs, self._outputs = tuple(blocks), tuple(inputs), outputs

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        batch = dict(zip(self._inputs, given, strict=True))
        return self._outputs(*self.through(self._blocks, batch), batch)


def _place(root: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module under a dotted name; where something is already, as the towers are when their heads come,
    the children join its children.
    """
    *path, last = name.split(".") if name else [""]
    for part in path:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    if last and not hasattr(root, last):
        root.add_module(last, module)
        return
    for child, each in module.named_children():
        _place(root.get_submodule(last), child, each)
