"""Merging in pieces: the bits are those of a merge in one piece, for every rule that is merged so."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from epmq_export.errors import InputError
from epmq_export.merging import inputs as merging_inputs
from epmq_export.merging.inputs import NUMBERS, Inputs, Rows, all_finite
from epmq_export.merging.merged import merged
from epmq_export.merging.names import Layers
from epmq_export.merging.registry import RULES
from epmq_export.merging.settings import MergeSettings
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.source import RowReader
from tests.tiny.in_memory import InMemory
from tests.tiny.merges import needed, settings_of

SHAPES = {
    "layer.0.weight": (61, 24),
    "layer.0.bias": (61,),
    "layer.0.kernel": (10, 3, 5, 5),
    "layer.1.weight": (8, 8),
    "embeddings.word.weight": (50, 6),
}


class ByRows(InMemory):
    """A model that is read by rows, and counts them."""

    read = 0

    def row_reader(self, name: str) -> RowReader:
        value = self.load(name)

        def rows(start: int, stop: int) -> torch.Tensor:
            self.read += stop - start
            return value[start:stop].clone()

        return rows


def models(kind: type[InMemory]) -> list[InMemory]:
    generator = torch.Generator().manual_seed(0)
    # Small whole numbers are often equal, and often cancel.
    return [
        kind(
            {
                name: torch.randint(-4, 5, shape, generator=generator).float() / 8
                for name, shape in SHAPES.items()
            }
        )
        for _ in range(4)
    ]


def settings(rule: str) -> MergeSettings:
    density = {"density": 0.5} if "density" in RULES[rule].parameters else {}
    experts = min(3, RULES[rule].experts[1] or 3)
    return settings_of(rule, {**needed(rule), **density}, [(str(index), {}) for index in range(experts)])


BY_ROWS = [rule for rule in RULES if RULES[rule].by_rows(settings(rule))]
IN_PIECES = [*BY_ROWS, *(rule for rule in RULES if RULES[rule].tables_by_rows)]


@pytest.mark.parametrize("kind", [InMemory, ByRows])
@pytest.mark.parametrize("rule", IN_PIECES)
def test_the_bits_are_those_of_one_piece(
    rule: str, kind: type[InMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, *experts = models(kind)
    chosen = settings(rule)
    experts = experts[: len(chosen.models)]
    whole = merged(base, experts, chosen)
    monkeypatch.setattr(merging_inputs, "PIECE", 100)
    cut = merged(base, experts, chosen)
    for name in SHAPES:
        assert torch.equal(cut.load(name).view(torch.int32), whole.load(name).view(torch.int32)), name
    if isinstance(experts[0], ByRows):
        assert experts[0].read > 0


@pytest.mark.parametrize("rule", IN_PIECES)
def test_the_bits_are_those_of_one_thread(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base, *experts = models(ByRows)
    chosen = settings(rule)
    monkeypatch.setattr(merging_inputs, "PIECE", 100)
    found = []
    for count in (1, 2, 5):
        monkeypatch.setattr("epmq_export.threads.asked", lambda count=count: count)
        source = merged(base, experts[: len(chosen.models)], chosen)
        found.append([source.load(name).view(torch.int32) for name in SHAPES])
    for others in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], others, strict=True))


def test_which_rules_are_merged_in_pieces() -> None:
    assert {"linear", "task_arithmetic", "ties", "dare_linear", "dare_ties", "nearswap"} <= {*BY_ROWS}
    assert {"tsvm", "iso_c", "iso_cts", "wudi"} == {*IN_PIECES} - {*BY_ROWS}
    for rule in ("dare_ties", "della"):
        chosen = settings_of(rule, {**needed(rule), "density": 0.5}, convention="mergekit")
        assert not RULES[rule].by_rows(chosen)  # It rescales a tensor to its length.


def test_random_numbers_go_on_from_piece_to_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    base, expert, *_ = models(InMemory)
    chosen = settings_of("dare_linear", {"density": 0.5, "seed": 3})
    inputs = Inputs(base, [expert], chosen, Layers({}), by_rows=True)
    monkeypatch.setattr(merging_inputs, "PIECE", 100)
    for name in ("layer.0.weight", "layer.0.kernel"):
        pieces = inputs.pieces(name)
        assert len(pieces) > 1 and all(isinstance(piece, Rows) for piece in pieces)
        drawn = torch.cat([inputs.uniform(0, piece) for piece in pieces])
        assert torch.equal(drawn, inputs.uniform(0, name))
    assert NUMBERS == 8


def test_a_number_that_is_not_finite_is_counted_in_the_whole_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    base, expert, *_ = models(ByRows)
    expert.tensors["layer.0.weight"][[3, 40]] = float("nan")  # type: ignore[index]
    monkeypatch.setattr(merging_inputs, "PIECE", 100)
    source = merged(base, [expert], settings_of("task_arithmetic"))
    with pytest.raises(InputError, match=r"tensor layer\.0\.weight has 48 values that are no finite"):
        source.load("layer.0.weight")


def test_rows_of_a_file_are_copied_before_they_are_changed(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(4, 2)}, tmp_path / "model.safetensors")
    base = open_checkpoint(tmp_path)
    inputs = Inputs(base, [base], settings_of("linear"), Layers({}), by_rows=True)
    inputs.base(Rows("w", 0, 2)).add_(1)
    assert not base.load("w").any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_are_finite_though_their_sum_is_not(dtype: torch.dtype) -> None:
    large = torch.full((64,), torch.finfo(dtype).max, dtype=dtype)
    assert not large.sum().isfinite() and all_finite(large)
    for bad in (math.inf, -math.inf, math.nan):
        assert not all_finite(torch.cat([large, torch.tensor([bad], dtype=dtype), -large]))
