"""A grid is two records, one of what it holds and one of how GGUF has it; the rest asks these."""

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from epmq_export.grids import GRIDS
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from formats.gguf.format import Gguf
from formats.gguf.types import BLOCKS, TYPES


def test_every_grid_has_a_record_and_every_record_of_blocks_a_grid() -> None:
    assert {grid.file_type for grid in GRIDS.values()} == set(BLOCKS) == {*TYPES} - {"F32", "F16"}
    assert Gguf().grids == set(GRIDS)
    assert all(kind.file_type in LlamaFileType for kind in TYPES.values())


@pytest.mark.parametrize("name", GRIDS)
def test_a_record_fills_the_block_that_gguf_says_and_the_runtime_decodes_it(name: str) -> None:
    grid = GRIDS[name]
    values, size = GGML_QUANT_SIZES[GGMLQuantizationType[grid.file_type]]
    assert values == grid.group and size == sum(field.size for field in TYPES[grid.file_type].fields)
    decoded = LlamaCpp().dequantiser(grid.file_type, np.zeros(3 * size, np.uint8), 3 * values)
    assert decoded.shape == (3 * values,) and not decoded.any()
