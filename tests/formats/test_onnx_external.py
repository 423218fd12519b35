"""Weights beside the model's file. The limit is lowered, so that small models pass it."""

import shutil
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, StringStringEntryProto, TensorProto

import formats.onnx.format
from epmq_export.errors import InputError, OutputError
from epmq_export.models.format import PlannedTensor
from epmq_export.recipe.recipe import RecipeVerify
from epmq_export.verification.checks import check_codes, check_graph, check_metadata
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from epmq_export.verification.verify import Written as File
from epmq_export.verification.verify import verify
from formats.onnx import external as onnx_external
from formats.onnx import weights as onnx_weights
from formats.onnx.format import OnnxQdq
from tests.tiny.onnx_encoders import TEXTS, Written, notes, small

FORMAT, RUNTIME = OnnxQdq(), OnnxRuntime()
QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("large")
    small()  # it is kept: not to be the first to be written
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(formats.onnx.format, "LIMIT", 100_000)
        return replace(small(), path=FORMAT.write(small().packed, small().family, folder))


@pytest.fixture
def copy(large: Written, tmp_path: Path) -> Written:
    shutil.copytree(large.folder, tmp_path / "onnx")
    return replace(large, path=FORMAT.find(tmp_path / "onnx", small().family))


def test_the_model_is_small_and_its_weights_lie_beside_it(large: Written) -> None:
    beside = large.path.with_name("model_q4.onnx_data")
    assert large.path.stat().st_size < 200_000 < beside.stat().st_size
    assert sorted(path.name for path in large.path.parent.iterdir()) == [
        "model_q4.onnx",
        "model_q4.onnx_data",
    ]
    model = onnx.load(large.path, load_external_data=False)
    end = 0
    for tensor in model.graph.initializer:
        told = {entry.key: entry.value for entry in tensor.external_data}
        assert not tensor.raw_data and told["location"] == beside.name and int(told["offset"]) % 4096 == 0
        assert 0 <= int(told["offset"]) - end < 4096
        end = int(told["offset"]) + int(told["length"])
    assert end == beside.stat().st_size
    onnx.checker.check_model(str(large.path), full_check=True)


def test_other_readers_find_the_same_weights(large: Written) -> None:
    """onnx's own loader, and the model that has its weights in itself: their graphs are one."""
    whole = {tensor.name: tensor.raw_data for tensor in onnx.load(small().path).graph.initializer}
    assert {tensor.name: tensor.raw_data for tensor in onnx.load(large.path).graph.initializer} == whole
    opened = [onnx.load(path, load_external_data=False) for path in (large.path, small().path)]
    graphs = [{item.key: item.value for item in model.metadata_props}["epmq.graph"] for model in opened]
    assert graphs[0] == graphs[1]


def test_it_computes_what_the_whole_file_computes(large: Written) -> None:
    for exact in (True, False):
        assert np.array_equal(
            RUNTIME.outputs(large.path, TEXTS[:5], exact=exact),
            RUNTIME.outputs(small().path, TEXTS[:5], exact=exact),
        )
    assert notes(large.path, large.family) == notes(small().path, small().family)


def test_verified_as_any_other(large: Written) -> None:
    written = File(large.path, FORMAT, [RUNTIME], large.packed)
    found = verify([written], large.family, RecipeVerify(), None, lambda _: None)
    assert found.broken == []
    (entry,) = found.files
    assert entry.passed and [str(other.path) for other in entry.others] == [f"{large.path}_data"]


def test_the_same_bytes_again(large: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats.onnx.format, "LIMIT", 100_000)
    again = FORMAT.write(large.packed, large.family, tmp_path)
    for name in ("", "_data"):
        assert Path(f"{again}{name}").read_bytes() == Path(f"{large.path}{name}").read_bytes()


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path) -> None:
    tensors = [TensorProto(name=str(index), dims=[2**20], data_type=TensorProto.FLOAT) for index in range(16)]
    tracemalloc.start()
    try:
        onnx_external.write(
            tmp_path / "m.onnx_data", "m.onnx_data", tensors, lambda tensor: bytes(onnx_weights.size(tensor))
        )
        assert tracemalloc.get_traced_memory()[1] < 3 * 2**22
    finally:
        tracemalloc.stop()
    assert (tmp_path / "m.onnx_data").stat().st_size == 16 * 2**22


@pytest.mark.parametrize("fails", ["data", "model"])
def test_half_of_it_is_nothing(fails: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats.onnx.format, "LIMIT", 100_000)

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    write = Path.write_bytes
    if fails == "data":
        monkeypatch.setattr(onnx_external, "write", full)
    else:
        monkeypatch.setattr(
            Path, "write_bytes", lambda path, data: (full if ".onnx" in path.name else write)(path, data)
        )
    with pytest.raises(OutputError, match="No space left"):
        FORMAT.write(small().packed, small().family, tmp_path)
    assert not list(tmp_path.rglob("*.onnx*"))


def test_its_size_is_told_before(large: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats.onnx.format, "LIMIT", 100_000)
    checkpoint = large.packed
    planned = {
        name: PlannedTensor(checkpoint.shape(name), checkpoint.grids.get(name) or checkpoint.load(name).dtype)
        for name in checkpoint.names()
    }
    sizes = FORMAT.sizes(planned, large.family, checkpoint.index)
    assert list(sizes) == ["onnx/model_q4.onnx", "onnx/model_q4.onnx_data"]
    assert sum(sizes["onnx/model_q4.onnx_data"].values()) == Path(f"{large.path}_data").stat().st_size
    assert sum(sizes["onnx/model_q4.onnx"].values()) == pytest.approx(large.path.stat().st_size, rel=0.25)


def test_a_changed_byte_beside_it_shows(copy: Written) -> None:
    beside = Path(f"{copy.path}_data")
    content = bytearray(beside.read_bytes())
    content[-1] ^= 1
    beside.write_bytes(content)
    assert not check_codes(
        FORMAT.open(copy.path, copy.family), copy.packed, FORMAT.left_out(copy.family), [RUNTIME]
    ).passed


def test_weights_of_nothing_are_told(tmp_path: Path) -> None:
    shutil.copytree(small().folder, tmp_path / "onnx")
    path = FORMAT.find(tmp_path / "onnx", small().family)
    path.with_name("model_q4.onnx_data").write_bytes(b"left over")
    assert FORMAT.open(path, small().family).differences(small().packed) == [
        "model_q4.onnx_data holds nothing of model_q4.onnx, which has its weights in itself"
    ]


def entry(tensor: TensorProto, key: str) -> StringStringEntryProto:
    return next(entry for entry in tensor.external_data if entry.key == key)


def put(key: str, value: str, tensor: TensorProto, path: Path) -> None:
    entry(tensor, key).value = value


def to_link(tensor: TensorProto, path: Path) -> None:
    path.with_name("other").symlink_to("/etc/passwd")
    put("location", "other", tensor, path)


def twice(tensor: TensorProto, path: Path) -> None:
    tensor.external_data.add(key="offset", value="0")


def no_length(tensor: TensorProto, path: Path) -> None:
    tensor.external_data.remove(entry(tensor, "length"))


def both(tensor: TensorProto, path: Path) -> None:
    tensor.raw_data = b"x"


def shifted(tensor: TensorProto, path: Path) -> None:
    put("offset", str(int(entry(tensor, "offset").value) + 4096), tensor, path)


def other_dims(tensor: TensorProto, path: Path) -> None:
    tensor.dims[:] = [2**40, 2**20]


def gone(tensor: TensorProto, path: Path) -> None:
    Path(f"{path}_data").unlink()


def folder(tensor: TensorProto, path: Path) -> None:
    Path(f"{path}_data").unlink()
    Path(f"{path}_data").mkdir()


def cut(tensor: TensorProto, path: Path) -> None:
    beside = Path(f"{path}_data")
    beside.write_bytes(beside.read_bytes()[:-1])


def longer(tensor: TensorProto, path: Path) -> None:
    with Path(f"{path}_data").open("ab") as file:
        file.write(b"x")


PLACES = [
    "/etc/passwd",
    "../../../../etc/passwd",
    "..",
    ".",
    "",
    "sub/model_q4.onnx_data",
    "./model_q4.onnx_data",
    "model_q4.onnx",
    "a\nb",
    "x" * 5000,
]
HOSTILE: list[tuple[Callable[[TensorProto, Path], None], str]] = [
    *((partial(put, "location", place), "expected model_q4.onnx_data beside it") for place in PLACES),
    (to_link, "expected model_q4.onnx_data beside it"),
    *(
        (partial(put, "offset", text), "as the offset of its data, expected a number of bytes")
        for text in ("-1", "", "1e9", "9" * 30, "٣")
    ),
    (partial(put, "offset", "1"), "begin at byte 1 of model_q4.onnx_data, expected"),
    (partial(put, "offset", str(2**59)), "begin at byte"),
    (shifted, "begin at byte"),
    (partial(put, "length", "8191"), "holds 8191 bytes of data, expected 8192 for INT4 [128, 128]"),
    (partial(put, "length", str(2**59)), "bytes of data, expected 8192"),
    (other_dims, "bytes of data, expected"),
    (twice, "expected location, offset, length alone"),
    (no_length, "expected location, offset, length alone"),
    (both, "has 1 bytes of data beside those in another file"),
    (gone, "keeps its data in model_q4.onnx_data, which is not there"),
    (folder, "keeps its data in model_q4.onnx_data, which is not there"),
    (cut, "of model_q4.onnx_data, which has"),
    (longer, "its last tensor ends there"),
]


@pytest.mark.parametrize(("forge", "sentence"), HOSTILE)
def test_hostile(copy: Written, forge: Callable[[TensorProto, Path], None], sentence: str) -> None:
    model: ModelProto = onnx.load(copy.path, load_external_data=False)
    forge(next(tensor for tensor in model.graph.initializer if tensor.name == f"{QUERY}.codes"), copy.path)
    copy.path.write_bytes(model.SerializeToString())
    for read in (
        lambda: list(FORMAT.open(copy.path, copy.family).tensors()),
        lambda: FORMAT.open(copy.path, copy.family).differences(copy.packed),
    ):
        with pytest.raises(InputError) as raised:
            read()
        assert (
            sentence in str(raised.value)
            and "\n" not in str(raised.value)
            and str(raised.value).startswith(f"{copy.path}: ")
        )
    assert check_metadata(FORMAT.open(copy.path, copy.family), copy.packed).broken
    assert check_codes(
        FORMAT.open(copy.path, copy.family), copy.packed, FORMAT.left_out(copy.family), [RUNTIME]
    ).broken


def test_the_runtime_tells_of_weights_that_are_gone(copy: Written) -> None:
    Path(f"{copy.path}_data").unlink()
    (sentence,) = check_graph(
        FORMAT.open(copy.path, copy.family), copy.packed, copy.family.exports["onnx"], RUNTIME, 1e-3
    ).broken
    assert "ONNX Runtime refuses it" in sentence


def test_a_tensor_without_data_stays_in_the_model(tmp_path: Path) -> None:
    tensors = [
        TensorProto(name="none", dims=[0], data_type=TensorProto.FLOAT),
        TensorProto(name="one", dims=[1], data_type=TensorProto.FLOAT),
    ]
    onnx_external.write(
        tmp_path / "m.onnx_data", "m.onnx_data", tensors, lambda tensor: bytes(4 * tensor.dims[0])
    )
    assert [len(tensor.external_data) for tensor in tensors] == [0, 3]
    assert (tmp_path / "m.onnx_data").stat().st_size == onnx_external.taken([0, 4]) == 4
