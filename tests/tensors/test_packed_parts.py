"""A packed checkpoint's tensors in their parts, some replaced, and read as what a file ships."""

import torch

from epmq_export.grids import GRIDS
from epmq_export.tensors.packed import PackedTensor
from epmq_export.tensors.packed_parts import InParts, Replaced, Shipped


def test_what_is_replaced_is_read_in_its_place() -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(4, 64), torch.randn(4)
    for grid in GRIDS.values():
        wide = weight if 64 % grid.group == 0 else weight.repeat(1, 4)
        first, other = (PackedTensor(grid, *grid.quantise(each)) for each in (wide, 2 * wide))
        stored = InParts({"w": first, "b": bias, "kept": bias})
        replaced = Replaced(stored, {"w": other, "b": -bias})
        assert replaced.grids == stored.grids == {"w": grid.name}
        assert sorted(replaced.names()) == sorted(stored.names())
        shipped = Shipped(replaced)
        assert shipped.names() == ["b", "kept", "w"] and shipped.shape("w") == tuple(wide.shape)
        assert torch.equal(shipped.load("w"), other.dequantise())
        found = shipped.tensor("w")
        assert isinstance(found, PackedTensor) and torch.equal(found.codes, other.codes)
        assert torch.equal(shipped.load("b"), -bias) and torch.equal(shipped.load("kept"), bias)
        assert shipped.shape("b") == (4,)
