"""A grid is two records, one of what it holds and one of how GGUF has it; the rest asks these."""

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from epmq_export.grids import GRIDS
from epmq_export.tensors.ggml_types import GGML_TYPES
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from formats.gguf.format import Gguf
from formats.gguf.types import BLOCKS, FILE_TYPES, TYPES


def test_every_grid_has_a_record_and_every_record_of_blocks_a_grid() -> None:
    assert {grid.file_type for grid in GRIDS.values()} == set(BLOCKS) == {*TYPES} - {"F32", "F16"}
    assert Gguf().grids == set(GRIDS)
    assert {kind.file_type for kind in TYPES.values()} <= {*FILE_TYPES}


def test_types_are_those_of_the_package_gguf_and_one_more() -> None:
    for known in GGMLQuantizationType:
        assert GGML_TYPES[known.name] == (known.name, known, *GGML_QUANT_SIZES[known])
    assert len({kind.number for kind in GGML_TYPES.values()}) == len(GGML_TYPES)
    assert {*GGML_TYPES} - {known.name for known in GGMLQuantizationType} <= {"Q2_0"}
    names = {int(known): known.name for known in LlamaFileType}
    others = {name for name, number in FILE_TYPES.items() if not names.get(number, "").endswith(name)}
    assert others <= {"Q2_0"}


@pytest.mark.parametrize("name", GRIDS)
def test_a_record_fills_the_block_that_gguf_says_and_the_runtime_decodes_it(name: str) -> None:
    grid = GRIDS[name]
    _, _, values, size = GGML_TYPES[grid.file_type]
    assert values == grid.group and size == sum(field.size for field in TYPES[grid.file_type].fields)
    decoded = LlamaCpp().dequantiser(grid.file_type, np.zeros(3 * size, np.uint8), 3 * values)
    assert decoded.shape == (3 * values,) and not decoded.any()
