"""Packed checkpoints that are no checkpoints, and disks that take no more."""

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from epmq_export.errors import InputError, OutputError
from epmq_export.grids import GRIDS
from epmq_export.tensors import packed_writer
from epmq_export.tensors.directory import PACKED_INDEX, PACKED_WEIGHTS
from epmq_export.tensors.packed import Packed, PackedTensor
from tests.tiny.packed_index import an_index


@pytest.fixture
def good(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    grid = GRIDS["Q4_0"]
    packed_writer.write(
        tmp_path / "good",
        {"w": PackedTensor(grid, *grid.quantise(torch.randn(4, 64))), "b": torch.randn(4)},
        an_index("none"),
        tmp_path,
    )
    Packed(tmp_path / "good")
    return tmp_path / "good"


def edit_index(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(good: Path) -> None:
        index = json.loads((good / PACKED_INDEX).read_text())
        edit(index)
        (good / PACKED_INDEX).write_text(json.dumps(index))

    return apply


def edit_weights(edit: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(good: Path) -> None:
        tensors = {name: value.clone() for name, value in load_file(good / PACKED_WEIGHTS).items()}
        edit(tensors)
        save_file(tensors, good / PACKED_WEIGHTS)

    return apply


def cut(good: Path, share: float) -> None:
    content = (good / PACKED_WEIGHTS).read_bytes()
    (good / PACKED_WEIGHTS).write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda good: (good / PACKED_INDEX).unlink(),
            r"good is no packed checkpoint: it has no packed\.json",
        ),
        (lambda good: (good / PACKED_INDEX).write_text("{"), r"packed\.json: not readable as JSON"),
        (
            lambda good: (good / PACKED_INDEX).write_bytes(b"\xff\xfe\x00"),
            r"packed\.json: not readable as JSON",
        ),
        (lambda good: (good / PACKED_INDEX).write_text("[" * 100_000), r"packed\.json: not readable as JSON"),
        (
            lambda good: (good / PACKED_INDEX).write_text("[]"),
            r"packed\.json: found a list, expected an object",
        ),
        (
            edit_index(lambda index: index.pop("format")),
            r"packed\.json: format is None, expected 'epmq-packed-1'",
        ),
        (
            edit_index(lambda index: index.update(format="epmq-packed-9")),
            r"packed\.json: format is 'epmq-packed-9', expected 'epmq-packed-1'",
        ),
        *(
            (
                edit_index(lambda index, key=key: index.pop(key)),
                rf"packed\.json: key {key} is missing, expected ",
            )
            for key in ("family", "method", "recipe", "inputs", "versions", "layers", "notes", "grids")
        ),
        *(
            (
                edit_index(lambda index, key=key: index.update({key: 1})),
                rf"packed\.json: {key} is 1, expected ",
            )
            for key in (
                "family",
                "method",
                "recipe",
                "inputs",
                "versions",
                "layers",
                "notes",
                "tune",
                "refine",
            )
        ),
        *(
            (
                edit_index(lambda index, found=found: index.update(split_bytes=found)),
                r"packed\.json: split_bytes is .*, expected ",
            )
            for found in ("2G", 0, -1, 1.5, True, None, ["2G"])
        ),
        (
            edit_index(lambda index: index.update(inputs=[{"path": "a"}])),
            r"packed\.json: inputs\[0\] is \{'path': 'a'\}, expected an object with path and sha256",
        ),
        (
            edit_index(lambda index: index.update(layers=["w"])),
            r"packed\.json: layers\[0\] is 'w', expected an object",
        ),
        (
            edit_index(lambda index: index.update(notes=[{}])),
            r"packed\.json: notes\[0\] is \{\}, expected a sentence",
        ),
        (
            edit_index(lambda index: index.update(versions={"torch": 2})),
            r"packed\.json: versions\.torch is 2, expected a version",
        ),
        (
            edit_index(lambda index: index.update(grids=["w"])),
            r"packed\.json: grids is \['w'\], expected an object",
        ),
        (
            edit_index(lambda index: index.update(grids={"w": "Q5_1"})),
            r"packed\.json: tensor w is on grid 'Q5_1', expected one of Q2_0, Q2_K, Q3_K, ",
        ),
        (
            edit_index(lambda index: index.update(grids={"w": ["Q4_0"]})),
            r"packed\.json: tensor w is on grid \['Q4_0'\], expected one of Q2_0, Q2_K, Q3_K, ",
        ),
        (
            edit_index(lambda index: index.update(grids={"w": "Q8_0"})),
            (
                r"tensor w has codes uint8 \[4, 32\] .* expected int8 \[4, 64\] and float16 \[4, 2\] on "
                r"grid Q8_0"
            ),
        ),
        (
            edit_index(lambda index: index["grids"].update(v="Q4_0")),
            r"packed\.safetensors: v\.codes is missing, packed\.json says that v is on grid Q4_0",
        ),
        (lambda good: (good / PACKED_WEIGHTS).unlink(), r"packed\.safetensors: no such file"),
        (
            lambda good: (good / PACKED_WEIGHTS).write_bytes(b""),
            r"packed\.safetensors: not whole and well-formed safetensors",
        ),
        (lambda good: cut(good, 0.9), r"packed\.safetensors: not whole and well-formed safetensors"),
        (lambda good: cut(good, 0.02), r"packed\.safetensors: not whole and well-formed safetensors"),
        (
            edit_weights(lambda tensors: tensors.pop("w.scales")),
            r"packed\.safetensors: w\.scales is missing, packed\.json says that w is on grid Q4_0",
        ),
        (edit_weights(lambda tensors: tensors.pop("w.codes")), r"packed\.safetensors: w\.codes is missing"),
        (
            edit_weights(
                lambda tensors: tensors.update({"w.scales": torch.zeros(4, 3, dtype=torch.float16)})
            ),
            r"w has .* scales float16 \[4, 3\], expected uint8 \[4, 48\]",
        ),
        (
            edit_weights(lambda tensors: tensors.update({"w.scales": torch.zeros(4, 2)})),
            r"tensor w has .* scales float32 \[4, 2\], expected .* float16 \[4, 2\]",
        ),
        (
            edit_weights(lambda tensors: tensors.update({"w.scales": torch.zeros(8, dtype=torch.float16)})),
            r"tensor w has .* scales float16 \[8\], expected",
        ),
        (
            edit_weights(lambda tensors: tensors.update({"w.codes": torch.zeros(4, 32)})),
            r"tensor w has codes float32 \[4, 32\] .*, expected uint8 \[4, 32\]",
        ),
    ],
)
def test_what_is_wrong_is_one_sentence_with_the_file(
    good: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(good)
    with pytest.raises(InputError, match=sentence) as error:
        Packed(good)
    assert str(good) in str(error.value) and "\n" not in str(error.value)


def test_unknown_names(good: Path) -> None:
    for ask in (Packed(good).tensor, Packed(good).load, Packed(good).shape):
        with pytest.raises(InputError, match=r"packed\.safetensors: no tensor w\.codes\.codes"):
            ask("w.codes.codes")


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow past `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 1000, 100_000])
def test_a_disk_that_takes_no_more_leaves_the_old_one_and_no_trace(good: Path, size: int) -> None:
    before = {path.name: path.read_bytes() for path in good.iterdir()}
    with (
        pytest.raises(OutputError, match=r"good/model\.safetensors: cannot be written \(.*File too large"),
        files_end_at(size),
    ):
        packed_writer.write(good, {"w": torch.ones(1000, 1000)}, an_index(), good)
    assert [path.name for path in good.parent.iterdir()] == ["good"]
    assert {path.name: path.read_bytes() for path in good.iterdir()} == before


def test_an_index_that_is_no_json_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        packed_writer.write(
            tmp_path / "out", {"w": torch.ones(1)}, an_index(recipe={"loss": float("nan")}), tmp_path
        )
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda tensors: tensors["w.subscales"][1].fill_(64),
            r"tensor w has subscales from \d+ to 64, expected 0 to 63 on grid Q4_K",
        ),
        (
            lambda tensors: tensors.pop("w.submins"),
            r"w\.submins is missing, packed\.json says that w is on grid Q4_K",
        ),
        (
            lambda tensors: tensors.update({"w.submins": torch.zeros(4, 2, dtype=torch.uint8)}),
            (
                r"tensor w has .* and submins uint8 \[4, 2\], expected uint8 \[4, 128\] and .* and "
                r"uint8 \[4, "
                r"8\] on grid Q4_K"
            ),
        ),
        (
            lambda tensors: tensors.update({"w.mins": torch.zeros(4, 1)}),
            r"tensor w has .* mins float32 \[4, 1\] .* expected .* float16 \[4, 1\]",
        ),
    ],
)
def test_so_are_the_stored_numbers_of_a_k_quant(
    tmp_path: Path, spoil: Callable[[dict[str, torch.Tensor]], object], sentence: str
) -> None:
    packed_writer.write(
        tmp_path / "good",
        {"w": PackedTensor(GRIDS["Q4_K"], *GRIDS["Q4_K"].quantise(torch.randn(4, 256)))},
        an_index("none"),
        tmp_path,
    )
    edit_weights(spoil)(tmp_path / "good")
    with pytest.raises(InputError, match=sentence):
        Packed(tmp_path / "good").tensor("w")


def test_a_code_that_the_grid_does_not_have_is_one_too(tmp_path: Path) -> None:
    packed_writer.write(
        tmp_path / "good",
        {"w": PackedTensor(GRIDS["Q3_K"], *GRIDS["Q3_K"].quantise(torch.randn(4, 256)))},
        an_index("none"),
        tmp_path,
    )
    edit_weights(lambda tensors: tensors["w.codes"][2].fill_(0x38))(tmp_path / "good")
    with pytest.raises(InputError, match=r"tensor w has codes from -4 to 4, expected -4 to 3 on grid Q3_K"):
        Packed(tmp_path / "good").tensor("w")


def test_numbers_that_the_grid_does_not_have_together_are_one_too(tmp_path: Path) -> None:
    """GGUF and ONNX would hold different weights."""
    packed_writer.write(
        tmp_path / "good",
        {"w": PackedTensor(GRIDS["Q4_1Z"], *GRIDS["Q4_1Z"].quantise(torch.rand(4, 256)))},
        an_index("none"),
        tmp_path,
    )
    edit_weights(lambda tensors: tensors["w.mins"].mul_(1.5).sub_(0.001))(tmp_path / "good")
    with pytest.raises(InputError, match=r"tensor w has scales and mins that Q4_1Z does not have together"):
        Packed(tmp_path / "good").tensor("w")
