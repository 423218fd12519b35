"""The packed checkpoint: bit for bit what was written, the same bytes again, readable by others."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel

from epmq_export.errors import InputError
from epmq_export.grids import GRIDS, Grid
from epmq_export.tensors import packed_writer, shards
from epmq_export.tensors.directory import PACKED_INDEX, PACKED_WEIGHTS, WEIGHTS
from epmq_export.tensors.packed import (
    Packed,
    PackedTensor,
    flatten,
    pack_codes,
    unflatten,
    unpack_codes,
)
from formats.inspect import describe
from tests.tiny.grid_points import random_point
from tests.tiny.onnx_encoders import small
from tests.tiny.packed_index import an_index

plain_dtypes = st.sampled_from([torch.float32, torch.float16])
grids = st.sampled_from([*GRIDS.values()])
names = st.text("abcé.", min_size=1, max_size=6)
layouts = st.dictionaries(
    names,
    st.one_of(
        st.tuples(plain_dtypes, st.lists(st.integers(0, 4), max_size=3)),
        st.tuples(grids, st.tuples(st.integers(1, 5), st.integers(1, 3))),
    ),
    max_size=5,
)


def bits(value: Tensor) -> bytes:
    return value.contiguous().numpy().tobytes()


def same(one: PackedTensor | Tensor, other: PackedTensor | Tensor) -> bool:
    if isinstance(one, PackedTensor) and isinstance(other, PackedTensor):
        return (
            one.grid == other.grid
            and same(one.codes, other.codes)
            and all(same(one.stored[part], other.stored[part]) for part in one.grid.parts)
        )
    assert isinstance(one, Tensor) and isinstance(other, Tensor)
    return one.dtype == other.dtype and one.shape == other.shape and bits(one) == bits(other)


@settings(max_examples=12)
@given(layouts)
def test_what_is_written_comes_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, layout: dict[str, tuple[object, tuple[int, ...]]]
) -> None:
    directory = tmp_path_factory.mktemp("packed")
    tensors: dict[str, PackedTensor | Tensor] = {}
    for seed, (name, (kind, shape)) in enumerate(layout.items()):
        if isinstance(kind, Grid):
            out, groups = shape
            tensors[name] = random_point(kind, out, groups, seed)
        else:
            assert isinstance(kind, torch.dtype)
            tensors[name] = torch.randn(torch.Size(shape)).to(kind)
    packed_writer.write(directory / "out", tensors, an_index("none"), directory)
    back = Packed(directory / "out")
    save_file(flatten(tensors)[0], directory / "all at once")
    (file,) = (directory / "out").glob("*.safetensors")
    assert file.read_bytes() == (directory / "all at once").read_bytes()
    assert back.names() == sorted(tensors)
    for name, value in tensors.items():
        assert same(back.tensor(name), value)
        values = value.dequantise() if isinstance(value, PackedTensor) else value
        assert same(back.load(name), values) and back.shape(name) == tuple(values.shape)
    stored, named = flatten(tensors)
    again = unflatten(stored, named)
    assert again.keys() == tensors.keys() and all(same(again[name], tensors[name]) for name in tensors)


def test_the_even_column_is_in_the_low_nibble_from_code_zero() -> None:
    codes = torch.tensor([[-8, 7, 0, 1, -1, -7]], dtype=torch.int8)
    assert pack_codes(GRIDS["Q4_0"], codes).tolist() == [[0xF0, 0x98, 0x17]]
    assert torch.equal(unpack_codes(GRIDS["Q4_0"], pack_codes(GRIDS["Q4_0"], codes)), codes)
    assert pack_codes(GRIDS["Q8_0"], codes) is codes


def test_the_stored_names_are_as_documented(tmp_path: Path) -> None:
    tensors: dict[str, PackedTensor | Tensor] = {
        "a.weight": random_point(GRIDS["Q4_0"], 2, 3, 0),
        "e.weight": random_point(GRIDS["Q8_0"], 5, 1, 0),
        "k.weight": random_point(GRIDS["Q4_K"], 3, 2, 0),
        "a.bias": torch.ones(2),
    }
    packed_writer.write(tmp_path / "out", tensors, an_index("bert", recipe={"größe": [1]}), tmp_path)
    stored = load_file(tmp_path / "out" / PACKED_WEIGHTS)
    assert {name: (str(value.dtype), [*value.shape]) for name, value in stored.items()} == {
        "a.weight.codes": ("torch.uint8", [2, 48]),
        "a.weight.scales": ("torch.float16", [2, 3]),
        "e.weight.codes": ("torch.int8", [5, 32]),
        "e.weight.scales": ("torch.float16", [5, 1]),
        "k.weight.codes": ("torch.uint8", [3, 256]),
        "k.weight.scales": ("torch.float16", [3, 2]),
        "k.weight.mins": ("torch.float16", [3, 2]),
        "k.weight.subscales": ("torch.uint8", [3, 16]),
        "k.weight.submins": ("torch.uint8", [3, 16]),
        "a.bias": ("torch.float32", [2]),
    }
    index = json.loads((tmp_path / "out" / PACKED_INDEX).read_text(encoding="utf-8"))
    assert index == {
        "format": "epmq-packed-1",
        "family": "bert",
        "about": {"name": "model"},
        "method": {},
        "recipe": {"größe": [1]},
        "inputs": [],
        "versions": {},
        "notes": [],
        "layers": [],
        "grids": {"a.weight": "Q4_0", "e.weight": "Q8_0", "k.weight": "Q4_K"},
    }
    assert Packed(tmp_path / "out").index.as_dict() == index


def test_companions_travel_and_the_rest_stays(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in (
        "config.json",
        "tokenizer.json",
        "vocab.txt",
        "1_Pooling/config.json",
        "model.safetensors.index.json",
        "adapter_config.json",
        "a.bin",
        "1_Pooling/x.json",
        "data_config.json",
        "trainer_state.json",
        "eval_results.json",
    ):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    packed_writer.write(tmp_path / "out", {"w": torch.ones(1)}, an_index(), source)
    travelled = {
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert travelled == {
        "config.json",
        "tokenizer.json",
        "vocab.txt",
        "1_Pooling/config.json",
        PACKED_INDEX,
        WEIGHTS,  # Nothing is on a grid, so any loader may take it.
    }
    # A packed checkpoint's own index is no companion: it may be the source of another one.
    packed_writer.write(tmp_path / "again", {"v": torch.ones(1)}, an_index(), tmp_path / "out")
    assert Packed(tmp_path / "again").names() == ["v"]


def test_twice_is_byte_identical_and_readable_by_others(tmp_path: Path) -> None:
    tensors: dict[str, PackedTensor | Tensor] = {
        "w": random_point(GRIDS["Q4_0"], 4, 2, 0),
        "b": torch.ones(3),
        "a": torch.ones(2).half(),
    }
    packed_writer.write(tmp_path / "one", tensors, an_index("x"), tmp_path)
    packed_writer.write(tmp_path / "two", dict(reversed(tensors.items())), an_index("x"), tmp_path)
    for name in (PACKED_WEIGHTS, PACKED_INDEX):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    (tmp_path / "plain").touch()
    assert (tmp_path / "one" / PACKED_WEIGHTS).stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_is_loaded_is_the_callers_own(tmp_path: Path) -> None:
    packed_writer.write(
        tmp_path / "out",
        {"w": random_point(GRIDS["Q8_0"], 2, 1, 0), "b": torch.ones(3)},
        an_index(),
        tmp_path,
    )
    source = Packed(tmp_path / "out")
    first = source.tensor("w")
    assert isinstance(first, PackedTensor)
    before = random_point(GRIDS["Q8_0"], 2, 1, 0)
    first.codes.zero_()
    first.stored["scales"].zero_()
    source.load("b").zero_()
    assert same(source.tensor("w"), before) and source.load("b").tolist() == [1, 1, 1]


def test_a_plain_tensor_may_be_named_like_a_part(tmp_path: Path) -> None:
    packed_writer.write(
        tmp_path / "out", {"norm.scales": torch.ones(2), "vq.codes": torch.zeros(3)}, an_index(), tmp_path
    )
    assert Packed(tmp_path / "out").names() == ["norm.scales", "vq.codes"]
    assert Packed(tmp_path / "out").load("norm.scales").tolist() == [1, 1]


def test_past_a_size_it_is_shards_and_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors: dict[str, PackedTensor | Tensor] = {
        "a.weight": random_point(GRIDS["Q4_0"], 4, 2, 0),
        "b.weight": random_point(GRIDS["Q4_K"], 3, 1, 0),
        "c.bias": torch.ones(5),
        "d.weight": random_point(GRIDS["Q8_0"], 2, 1, 0),
    }
    packed_writer.write(tmp_path / "whole", tensors, an_index("none"), tmp_path)
    monkeypatch.setattr(shards, "SHARD_BYTES", 200)
    packed_writer.write(tmp_path / "out", tensors, an_index("none"), tmp_path)
    index = json.loads((tmp_path / "out" / "packed.safetensors.index.json").read_text())
    names = [f"packed-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *names,
        PACKED_INDEX,
        "packed.safetensors.index.json",
    ]
    for name in names:  # a tensor's parts are together, and the sizes are those planned
        stored = load_file(tmp_path / "out" / name)
        assert {place for place, shard in index["weight_map"].items() if shard == name} == stored.keys()
    sizes = [sum(value.nbytes for value in load_file(tmp_path / "out" / name).values()) for name in names]
    assert index["metadata"]["total_size"] == sum(sizes) and sizes[0] == 144 and sizes[1] == 444
    assert (tmp_path / "out" / PACKED_INDEX).read_bytes() == (tmp_path / "whole" / PACKED_INDEX).read_bytes()
    back = Packed(tmp_path / "out")
    assert back.names() == sorted(tensors)
    assert all(
        same(back.tensor(name), value) and back.shape(name) == Packed(tmp_path / "whole").shape(name)
        for name, value in tensors.items()
    )
    described = {tensor.name: (tensor.type, tensor.bytes) for tensor in describe(tmp_path / "out").tensors}
    assert described == {
        tensor.name: (tensor.type, tensor.bytes) for tensor in describe(tmp_path / "whole").tensors
    }
    # A packed checkpoint of one file over one of shards: no index stays behind.
    monkeypatch.setattr(shards, "SHARD_BYTES", 10**9)
    packed_writer.write(tmp_path / "out", tensors, an_index("none"), tmp_path / "whole")
    assert not (tmp_path / "out" / "packed.safetensors.index.json").exists()


@pytest.mark.parametrize("limit", [200, 10**9], ids=["shards", "one file"])
def test_the_old_name_of_the_weights_is_read_and_told(
    limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", limit)
    tensors = {"a": random_point(GRIDS["Q4_0"], 4, 2, 0), "b": torch.ones(90)}
    packed_writer.write(tmp_path / "out", tensors, an_index(), tmp_path)
    found = sorted((tmp_path / "out").glob("packed*.safetensors*"))
    for path in found:
        content = path.read_bytes().replace(b"packed-", b"model-") if path.suffix == ".json" else None
        path.write_bytes(content) if content else None
        path.rename(path.with_name(path.name.replace("packed", "model")))
    old = Packed(tmp_path / "out")
    assert same(old.tensor("a"), tensors["a"]) and old.names() == ["a", "b"]
    assert describe(tmp_path / "out").kind == "packed checkpoint"
    name = "model.safetensors" + (".index.json" if len(found) > 1 else "")
    (told,) = caplog.messages
    assert told.startswith(f"{tmp_path / 'out' / name}: found the old name of a packed checkpoint's weights")


def test_no_loader_takes_codes_for_weights() -> None:
    with pytest.raises(OSError, match=r"no file named .*model\.safetensors"):
        AutoModel.from_pretrained(small().packed.directory)


def test_a_shard_that_is_gone_or_lacks_a_part_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    packed_writer.write(
        tmp_path / "out",
        {"a": random_point(GRIDS["Q8_0"], 2, 1, 0), "b": torch.ones(3)},
        an_index(),
        tmp_path,
    )
    first = tmp_path / "out" / "packed-00001-of-00002.safetensors"
    kept = first.read_bytes()
    first.unlink()
    with pytest.raises(
        InputError,
        match=(
            r"tensor a\.codes is said to be in packed-00001-of-00002\.safetensors, but that shard is "
            r"missing"
        ),
    ):
        Packed(tmp_path / "out")
    first.write_bytes(kept)
    place = tmp_path / "out" / "packed.safetensors.index.json"
    index = json.loads(place.read_text())
    del index["weight_map"]["a.scales"]
    place.write_text(json.dumps(index))
    with pytest.raises(
        InputError, match=r"index\.json: a\.scales is missing, packed\.json says that a is on grid Q8_0"
    ):
        Packed(tmp_path / "out")
