"""The GGUF format: lossless, read by gguf-py, and every difference from the packed checkpoint named."""

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray

from converters import open_family
from epmq_export.errors import InputError
from epmq_export.grids import GRIDS
from epmq_export.models.family import Family
from epmq_export.models.format import PlannedTensor
from epmq_export.models.specs import GgufSpec
from epmq_export.tensors.about import About
from epmq_export.tensors.ggml_types import GGML_TYPES, GgmlType
from epmq_export.tensors.gguf_file import GgufFile, TensorInfo, Value
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.verification.runtimes.llama_cpp.ggml import dequantise
from formats.gguf.blocks import decode, encode
from formats.gguf.format import Gguf
from formats.gguf.general import common_keys
from formats.gguf.spec import export_of, spec_of
from formats.gguf.types import BLOCKS
from tests.tiny.bert import small_bert, small_packed
from tests.tiny.gguf_edits import edited, tensor_at, token_at, value_at
from tests.tiny.grid_points import random_point

INDEX: dict[str, object] = {
    "recipe": {"merge_method": "ties", "who": "Zoë"},
    "inputs": [{"path": "a", "sha256": "00"}],
    "method": {"name": "rtn"},
    "versions": {"torch": "2", "epmq-export": "0.1"},
}
QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Packed, Family]:
    place = tmp_path_factory.mktemp("small")
    return small_packed(place / "packed", small_bert(place / "model"), index=INDEX)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, small: tuple[Packed, Family]) -> Path:
    return Gguf().write(*small, tmp_path_factory.mktemp("written"))


def same(one: PackedTensor | torch.Tensor, other: PackedTensor | torch.Tensor) -> bool:
    if isinstance(one, PackedTensor) and isinstance(other, PackedTensor):
        pairs = [
            (one.codes, other.codes),
            *((numbers, other.stored[part]) for part, numbers in one.stored.items()),
        ]
        return one.grid.file_type == other.grid.file_type and all(
            torch.equal(mine.view(torch.uint8), theirs.view(torch.uint8)) for mine, theirs in pairs
        )
    assert isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return one.dtype == other.dtype and torch.equal(one, other)


def changed(path: Path, packed: Packed, family: Family) -> list[str]:
    return [
        stored.name
        for stored in Gguf().open(path, family).tensors()
        if not same(packed.tensor(stored.name), stored.value)
    ]


@pytest.mark.parametrize("name", GRIDS)
@settings(max_examples=25)
@given(out=st.integers(1, 5), groups=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_packing_is_lossless_and_decodes_as_others_decode(
    name: str, out: int, groups: int, seed: int
) -> None:
    tensor = random_point(GRIDS[name], out, groups, seed)
    raw = encode(tensor)
    kind = GGML_TYPES[GRIDS[name].file_type]
    assert (tensor.grid.group, raw.shape[1]) == (kind.values, kind.size) and raw.shape[
        1
    ] * 8 == tensor.grid.bits_per_weight * tensor.grid.group
    raw = raw.reshape(-1)
    assert same(tensor, decode(Path("x"), TensorInfo("x", kind, tuple(tensor.codes.shape), 0, raw.size), raw))
    theirs = by_others(kind, raw).reshape(out, -1)
    assert np.array_equal(theirs.view(np.uint32), tensor.dequantise().numpy().view(np.uint32))


def by_others(kind: GgmlType, raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the values as gguf-py decodes them, or llama.cpp where gguf-py lacks the type."""
    known = gguf.GGMLQuantizationType.__members__.get(kind.name)
    if known is None:
        return dequantise(kind.name, raw, raw.size // kind.size * kind.values)
    values: NDArray[np.float32] = gguf.quants.dequantize(raw, known)
    return values


@pytest.mark.parametrize("name", BLOCKS)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_bytes_decode_as_others_decode_them_and_come_back(name: str, seed: int) -> None:
    """Not only those that this project writes: a permutation of bits has no spare ones."""
    kind = GGML_TYPES[name]
    raw = np.random.default_rng(seed).integers(0, 256, 6 * kind.size, dtype=np.uint8)
    tensor = decode(Path("x"), TensorInfo("x", kind, (2, 3 * kind.values), 0, raw.size), raw)
    assert isinstance(tensor, PackedTensor) and np.array_equal(encode(tensor).reshape(-1), raw)
    with np.errstate(all="ignore"):
        theirs, ours = by_others(kind, raw).reshape(2, -1), tensor.dequantise().numpy()
    assert np.array_equal(theirs, ours, equal_nan=True)


def test_the_file_holds_every_tensor_bit_for_bit(written: Path, small: tuple[Packed, Family]) -> None:
    packed, family = small
    stored = list(Gguf().open(written, family).tensors())
    assert sorted(tensor.name for tensor in stored) == packed.names()
    assert changed(written, packed, family) == []
    assert {type(tensor.value) for tensor in stored} == {PackedTensor, torch.Tensor}


def test_bytes_among_the_keys_are_an_array_of_uint8(
    small: tuple[Packed, Family], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, family = small
    spec = spec_of(family)
    longer = replace(spec, metadata={**spec.metadata, "a.table": b"\0\x7f\xff"})
    export = replace(export_of(family), spec=lambda: longer)
    monkeypatch.setattr(type(family), "exports", {"gguf": export})
    path = Gguf().write(packed, family, tmp_path)
    assert GgufFile.open(path).metadata["a.table"] == Value(
        gguf.GGUFValueType.ARRAY, [0, 127, 255], gguf.GGUFValueType.UINT8
    )
    assert Gguf().open(path, family).differences(packed) == []


def test_gguf_py_reads_it(written: Path, small: tuple[Packed, Family]) -> None:
    packed, family = small
    reader = gguf.GGUFReader(written)
    names = {there: here for here, there in spec_of(family).names.items()}
    for tensor in reader.tensors:
        assert np.array_equal(
            gguf.quants.dequantize(tensor.data, tensor.tensor_type),
            packed.load(names[tensor.name]).float().numpy(),
        )
    fields = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert fields["general.architecture"] == "bert"
    assert fields["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_0
    assert fields["general.alignment"] == 32
    assert fields["bert.attention.causal"] is False
    for key, value in spec_of(family).metadata.items():
        assert fields[key] == (pytest.approx(value) if isinstance(value, float) else value)


def test_what_it_is_and_is_made_of_is_told_as_the_converter_of_llama_cpp_tells_it(tmp_path: Path) -> None:
    about = About(
        name="SmolLM2-chat",
        base_models=("org/SmolLM2-135M", "org/tickets"),
        license="apache-2.0",
        languages=("en",),
        pipeline_tag="text-generation",
    )
    packed, family = small_packed(tmp_path / "packed", small_bert(tmp_path / "model"), index={"about": about})
    path = Gguf().write(packed, family, tmp_path)
    assert path.name == "SmolLM2-chat-Q4_0.gguf" and Gguf().find(tmp_path, family) == path
    fields = gguf.GGUFReader(path).fields
    found = {key: field.contents() for key, field in fields.items() if key.startswith("general.")}
    assert found == {
        "general.architecture": "bert",
        "general.type": "model",
        "general.name": "SmolLM2 Chat",
        "general.finetune": "chat",
        "general.basename": "SmolLM2",
        "general.size_label": found["general.size_label"],
        "general.quantized_by": "epmq-export",
        "general.license": "apache-2.0",
        "general.base_model.count": 2,
        "general.base_model.0.name": "SmolLM2 135M",
        "general.base_model.0.organization": "Org",
        "general.base_model.0.repo_url": "https://huggingface.co/org/SmolLM2-135M",
        "general.base_model.1.name": "Tickets",
        "general.base_model.1.organization": "Org",
        "general.base_model.1.repo_url": "https://huggingface.co/org/tickets",
        "general.tags": ["text-generation"],
        "general.languages": ["en"],
        "general.file_type": gguf.LlamaFileType.MOSTLY_Q4_0,
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
        "general.alignment": 32,
    }
    assert Gguf().open(path, family).differences(packed) == []
    assert sum(found_bytes(packed, family).values()) == pytest.approx(path.stat().st_size, abs=64)


def test_a_model_is_called_phi_3_where_llama_cpp_shall_read_its_tokenizer_so_and_nowhere_else() -> None:
    spec, named = GgufSpec("bert", {}, {}), About(name="my-Phi3-chat")
    found = [common_keys(named, each, {})["general.name"] for each in (spec, replace(spec, called="Phi-3"))]
    assert found == ["My Phi 3 Chat", "My Phi 3 Chat (Phi-3)"]


def found_bytes(packed: Packed, family: Family) -> Mapping[str, int]:
    """Return the bytes of the only file as they are told before it is written."""
    planned = {
        name: PlannedTensor(packed.shape(name), packed.grids.get(name) or packed.load(name).dtype)
        for name in packed.names()
    }
    (found,) = Gguf().sizes(planned, family, packed.index).values()
    return found


def test_where_it_came_from_stands_in_the_file(written: Path) -> None:
    found = GgufFile.open(written).metadata
    for key, value in INDEX.items():
        assert json.loads(found[f"epmq.{key}"].value) == value
    assert found["epmq.version"].value == "0.1"


def test_one_packed_checkpoint_gives_the_same_bytes(
    written: Path, small: tuple[Packed, Family], tmp_path: Path
) -> None:
    packed, _ = small
    again = Gguf().write(Packed(packed.directory), open_family(packed.directory), tmp_path)
    assert again.read_bytes() == written.read_bytes()
    assert Gguf().open(written, small[1]).differences(packed) == []


@pytest.mark.parametrize(
    ("grid", "expected"), [("Q8_0", gguf.LlamaFileType.MOSTLY_Q8_0), (None, gguf.LlamaFileType.ALL_F32)]
)
def test_the_file_type_is_that_of_most_matrices(grid: str | None, expected: int, tmp_path: Path) -> None:
    packed, family = small_packed(tmp_path / "packed", small_bert(tmp_path / "model"), grid=grid)
    path = Gguf().write(packed, family, tmp_path)
    assert GgufFile.open(path).metadata["general.file_type"].value == expected
    assert changed(path, packed, family) == []
    assert Gguf().open(path, family).differences(packed) == []


def test_a_flipped_nibble_and_a_flipped_scale_show(
    written: Path, small: tuple[Packed, Family], tmp_path: Path
) -> None:
    start = tensor_at(written, "blk.0.attn_q.weight")
    content = written.read_bytes()
    for at in (start, start + 1, start + 5):  # the scale's two bytes, and two codes
        path = edited(written, tmp_path / "model.gguf", at, bytes([content[at] ^ 0x10]))
        assert changed(path, *small) == [QUERY]
        assert Gguf().open(path, small[1]).differences(small[0]) == []


@pytest.mark.parametrize(
    ("key", "new", "sentence"),
    [
        ("bert.pooling_type", struct.pack("<I", 2), "key bert.pooling_type: found 2, expected 1"),
        (
            "bert.attention.head_count",
            struct.pack("<I", 8),
            "key bert.attention.head_count: found 8, expected 4",
        ),
        ("bert.attention.causal", b"\1", "key bert.attention.causal: found True, expected False"),
        (
            "tokenizer.ggml.add_sep_token",
            b"\0",
            "key tokenizer.ggml.add_sep_token: found False, expected True",
        ),
    ],
)
def test_a_changed_key_is_named(
    key: str, new: bytes, sentence: str, written: Path, small: tuple[Packed, Family], tmp_path: Path
) -> None:
    path = edited(written, tmp_path / "model.gguf", value_at(written, key), new)
    assert Gguf().open(path, small[1]).differences(small[0]) == [sentence]


def test_a_changed_token_is_named(written: Path, small: tuple[Packed, Family], tmp_path: Path) -> None:
    path = edited(written, tmp_path / "model.gguf", token_at(written, "▁weather") + 3, b"l")
    assert Gguf().open(path, small[1]).differences(small[0]) == [
        "key tokenizer.ggml.tokens[6]: found '▁leather', expected '▁weather'"
    ]


def test_a_renamed_key_is_one_missing_and_one_more(
    written: Path, small: tuple[Packed, Family], tmp_path: Path
) -> None:
    key = b"bert.pooling_type"
    path = edited(written, tmp_path / "model.gguf", written.read_bytes().index(key), key.upper())
    assert Gguf().open(path, small[1]).differences(small[0]) == [
        "key bert.pooling_type is missing: expected 1",
        "key BERT.POOLING_TYPE is not expected: found 1",
    ]


def test_a_changed_type_of_a_key_is_named(
    written: Path, small: tuple[Packed, Family], tmp_path: Path
) -> None:
    at = value_at(written, "bert.pooling_type") - 4
    path = edited(written, tmp_path / "model.gguf", at, struct.pack("<I", gguf.GGUFValueType.INT32))
    assert Gguf().open(path, small[1]).differences(small[0]) == [
        "key bert.pooling_type: found type INT32, expected UINT32"
    ]


def test_a_renamed_tensor_is_named_and_still_yielded(
    written: Path, small: tuple[Packed, Family], tmp_path: Path
) -> None:
    name = b"blk.1.ffn_up.weight"
    path = edited(written, tmp_path / "model.gguf", written.read_bytes().index(name), b"blk.7")
    assert Gguf().open(path, small[1]).differences(small[0]) == [
        "tensor blk.1.ffn_up.weight: found none, expected Q4_0 [128, 64]",
        "tensor blk.7.ffn_up.weight: found Q4_0 [128, 64], expected none",
    ]
    names = {stored.name for stored in Gguf().open(path, small[1]).tensors()}
    assert "blk.7.ffn_up.weight" in names and "encoder.layer.1.intermediate.dense.weight" not in names


def test_the_twin_is_the_file_in_f32(written: Path, small: tuple[Packed, Family], tmp_path: Path) -> None:
    packed, family = small
    bent = edited(
        written, tmp_path / "bent.gguf", value_at(written, "bert.pooling_type"), struct.pack("<I", 2)
    )
    twin = Gguf().open(bent, family).exact(bent, tmp_path)
    assert GgufFile.open(twin).metadata == GgufFile.open(bent).metadata
    assert {tensor.type.name for tensor in GgufFile.open(twin).tensors.values()} == {"F32"}
    for stored in Gguf().open(twin, family).tensors():
        assert isinstance(stored.value, torch.Tensor)
        assert torch.equal(stored.value, packed.load(stored.name).float())


def test_a_tensor_that_is_missing_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    source = small_bert(tmp_path / "model")
    packed, _ = small_packed(tmp_path / "packed", source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(
        InputError, match=r"packed: tensor encoder\.layer\.2\.attention\.output\.LayerNorm\.bias is missing"
    ):
        Gguf().write(packed, open_family(source), out)
    assert list(out.iterdir()) == []


def test_find_and_notes(written: Path, small: tuple[Packed, Family], tmp_path: Path) -> None:
    assert Gguf().find(written.parent, small[1]) == written
    with pytest.raises(InputError, match=r"has no file of a model, expected one that ends in .gguf"):
        Gguf().find(tmp_path, small[1])
    notes = Gguf().open(written, small[1]).notes()
    assert notes["bytes"] == written.stat().st_size
    assert notes["tensors"] == {"F16": 1, "F32": 24, "Q4_0": 12}
    assert sum(notes["tensor_bytes"].values()) < notes["bytes"]
