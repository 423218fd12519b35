"""The check of codes where the runtime's own dequantiser knows no such grid."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epmq_export.errors import InputError
from epmq_export.verification.checks import check_codes
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from formats.gguf.format import Gguf
from tests.tiny.bert import small_bert, small_packed


@dataclass(frozen=True)
class Narrow(LlamaCpp):
    """A runtime whose own dequantiser knows nothing."""

    name = "narrow"

    @property
    def dequantiser(self):  # type: ignore[no-untyped-def] # noqa: ANN201
        def refuse(grid: str, raw: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
            raise InputError(f"narrow's own dequantiser knows no grid {grid}")

        return refuse


def test_a_grid_that_the_runtimes_own_dequantiser_does_not_know_breaks_the_check(tmp_path: Path) -> None:
    packed, family = small_packed(tmp_path / "packed", small_bert(tmp_path / "model"))
    path = Gguf().write(packed, family, tmp_path)
    good = check_codes(Gguf().open(path, family), packed, Gguf().left_out(family), [LlamaCpp()])
    assert good.passed and good.decoded == {"llama.cpp": len(packed.grids)}
    bad = check_codes(Gguf().open(path, family), packed, Gguf().left_out(family), [Narrow()])
    assert not bad.passed and bad.decoded == {"narrow": 0} and len(bad.broken) == len(packed.grids)
    assert all("narrow's own dequantiser knows no grid Q4_0" in sentence for sentence in bad.broken)
    both = check_codes(Gguf().open(path, family), packed, Gguf().left_out(family), [LlamaCpp(), Narrow()])
    assert both.broken == bad.broken and both.facts == good.facts | {"equal": False}
    assert both.of("llama.cpp").facts["decoded_by_runtime"] == len(packed.grids)
    assert both.of("narrow").facts["decoded_by_runtime"] == 0
