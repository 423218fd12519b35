"""What `epmq inspect` finds in files of every kind, ours and others'."""

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file

from epmq_export.console.listing import Row, origin, rows, short
from epmq_export.errors import InputError
from epmq_export.grids import GRIDS
from epmq_export.tensors.description import Description, TensorDescription
from epmq_export.tensors.packed import Packed
from formats.gguf.format import Gguf
from formats.inspect import describe
from tests.tiny.bert import small_bert, small_packed

INDEX = {
    "recipe": {"merge_method": "ties"},
    "inputs": [{"path": "a", "sha256": "00"}],
    "method": {"name": "rtn"},
    "versions": {"torch": "2"},
}
QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    place = tmp_path_factory.mktemp("packed")
    return small_packed(place / "packed", small_bert(place / "model"), index={**INDEX, "layers": []})[0]


def by_name(description: Description) -> dict[str, TensorDescription]:
    return {tensor.name: tensor for tensor in description.tensors}


def test_a_packed_checkpoint_shows_grids_with_their_scales(packed: Packed) -> None:
    found = describe(packed.directory)
    assert found.kind == "packed checkpoint"
    assert found.provenance == INDEX
    assert found.metadata["family"] == "bert" and not {"recipe", "grids"} & found.metadata.keys()
    assert [tensor.name for tensor in found.tensors] == packed.names()
    assert by_name(found)[QUERY] == TensorDescription(QUERY, "Q4_0", (64, 64), 64 * 64 // 32 * 18)
    assert by_name(found)[QUERY].bits_per_weight == 4.5
    assert by_name(found)["embeddings.word_embeddings.weight"].type == "F16"
    assert found.totals["Q4_0"].tensors == 12
    assert found.total.weights == sum(packed.load(name).numel() for name in packed.names())


def test_our_gguf(packed: Packed, tmp_path: Path) -> None:
    from converters import open_family

    family = open_family(packed.directory)
    path = Gguf().write(packed, family, tmp_path)
    found = describe(path)
    assert found.kind == "gguf" and found.provenance == INDEX
    assert found.metadata["general.architecture"] == "bert"
    assert {(t.type, t.bits_per_weight) for t in found.tensors} == {
        ("Q4_0", 4.5),
        ("F16", 16.0),
        ("F32", 32.0),
    }
    notes = Gguf().open(path, family).notes()
    assert {kind: (total.tensors, total.bytes) for kind, total in found.totals.items()} == {
        kind: (count, notes["tensor_bytes"][kind]) for kind, count in notes["tensors"].items()
    }


def test_a_gguf_of_others_with_types_that_we_do_not_write(tmp_path: Path) -> None:
    path = tmp_path / "blob"  # known by its content, whatever its name
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", [f"t{i}" for i in range(100)])
    writer.add_float32("some.nan", float("nan"))
    writer.add_string("epmq.recipe", "{not JSON")
    writer.add_tensor(
        "blk.0.attn_q.weight", np.zeros((4, 144), np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q4_K
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = describe(path)
    assert found.tensors == [TensorDescription("blk.0.attn_q.weight", "Q4_K", (4, 256), 4 * 144)]
    assert found.metadata["tokenizer.ggml.tokens"][99] == "t99"
    assert found.provenance == {"recipe": "{not JSON"}
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["metadata"]["some.nan"] == "nan"


def test_an_onnx_of_others(tmp_path: Path) -> None:
    """Inner graphs, functions, constants, 4 bits, float data in fields of their own, and data in another
    file.
    """
    inner = helper.make_graph(
        [], "inner", [], [], [helper.make_tensor("hidden", TensorProto.INT64, [3], [1, 2, 3])]
    )
    big = numpy_helper.from_array(np.ones((8, 16), np.float16), "outside")
    big.ClearField("raw_data")
    big.data_location = TensorProto.EXTERNAL
    big.external_data.add(key="location", value="model.onnx_data")
    graph = helper.make_graph(
        [
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(np.zeros(5, np.float32))),
            helper.make_node(
                "If", ["x"], ["y"], then_branch=inner, else_branch=helper.make_graph([], "empty", [], [])
            ),
            helper.make_node("Twice", ["x"], ["z"], domain="mine"),
        ],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 3]),
        ],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["batch", None])],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [2, 3], range(6)),
            helper.make_tensor("q", TensorProto.INT4, [3, 3], b"12345", raw=True),
            big,
        ],
    )
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    function = helper.make_function("mine", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 21)])
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", 21), helper.make_opsetid("mine", 1)],
        functions=[function],
        producer_name="me",
    )
    model.metadata_props.add(key="note", value="größe")
    path = tmp_path / "Model.ONNX"
    path.write_bytes(model.SerializeToString())
    found = describe(path)
    assert found.tensors == [
        TensorDescription("w", "FLOAT", (2, 3), 24),
        TensorDescription("q", "INT4", (3, 3), 5),
        TensorDescription("outside", "FLOAT16", (8, 16), 256),
        TensorDescription("hidden", "INT64", (3,), 3),  # as varints
    ]
    assert found.metadata == {
        "onnx.ir_version": model.ir_version,
        "onnx.opset": {"ai.onnx": 21, "mine": 1},
        "onnx.producer": "me",
        "onnx.inputs": {"x": "FLOAT [batch, 4]"},
        "onnx.outputs": {"z": "FLOAT [batch, ?]"},
        "onnx.operators": {"Add": 1, "Constant": 1, "If": 1, "mine.Twice": 1},
        "onnx.constant_bytes": 20,
        "onnx.external_data": ["model.onnx_data"],
        "note": "größe",
    }


def test_the_onnx_reader_agrees_with_protobuf_on_a_real_file() -> None:
    from tests.tiny import onnx_encoders

    path = onnx_encoders.small().path
    model = onnx.load(path)
    found = describe(path)
    assert [(t.name, t.shape, t.bytes) for t in found.tensors] == [
        (t.name, tuple(t.dims), len(t.raw_data)) for t in model.graph.initializer
    ]
    assert sum(found.metadata["onnx.operators"].values()) == len(model.graph.node)
    assert found.provenance["recipe"]["größe"] == 2.0
    assert list(found.metadata["onnx.outputs"]) == [value.name for value in model.graph.output]


def test_safetensors_of_any_dtype(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(
        {
            "a": torch.zeros(2, 3).to(torch.float8_e4m3fn),
            "b": torch.zeros(0, 4),
            "c": torch.zeros((), dtype=torch.bool),
        },
        path,
        {"who": "me"},
    )
    found = describe(path)
    assert found.metadata == {"who": "me"}
    assert by_name(found) == {
        "a": TensorDescription("a", "F8_E4M3", (2, 3), 6),
        "b": TensorDescription("b", "F32", (0, 4), 0),
        "c": TensorDescription("c", "BOOL", (), 1),
    }
    assert by_name(found)["b"].bits_per_weight is None and by_name(found)["c"].bits_per_weight == 8


def sharded(directory: Path) -> Path:
    directory.mkdir()
    save_file({"a": torch.zeros(2), "spare": torch.zeros(9)}, directory / "one.safetensors", {"format": "pt"})
    save_file({"b": torch.zeros(3)}, directory / "two.safetensors")
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"b": "two.safetensors", "a": "one.safetensors"}})
    )
    (directory / "config.json").write_text(
        json.dumps({"model_type": "t5", "quantization_config": {"bits": 4}})
    )
    return directory


def test_a_sharded_model(tmp_path: Path) -> None:
    found = describe(sharded(tmp_path / "m"))
    assert found.kind == "Hugging Face model"
    assert [tensor.name for tensor in found.tensors] == ["a", "b"]
    assert found.metadata == {
        "model_type": "t5",
        "quantization_config": {"bits": 4},
        "safetensors.format": "pt",
    }


def test_the_real_model(minilm_directory: Path) -> None:
    found = describe(minilm_directory)
    assert found.metadata["hidden_size"] == 384
    assert found.total.weights > 22_000_000
    assert len(rows(found.tensors)) < 30 < len(found.tensors)
    assert sum(row.count for row in rows(found.tensors)) == len(found.tensors)


def test_a_lora_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    save_file({"base_model.model.x.lora_A.weight": torch.zeros(4, 8)}, tmp_path / "adapter_model.safetensors")
    found = describe(tmp_path)
    assert (found.kind, found.metadata["r"], found.tensors[0].shape) == ("LoRA adapter", 4, (4, 8))


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


WRONG: dict[str, tuple[dict[str, bytes | str], str, str]] = {
    "missing": ({}, "none.gguf", "none.gguf: no such file or directory"),
    "text as gguf": (
        {"x.gguf": "just text"},
        "x.gguf",
        "x.gguf: begins with b'just', expected b'GGUF': it is no GGUF file",
    ),
    "text as onnx": (
        {"x.onnx": "just a text that is long enough"},
        "x.onnx",
        "x.onnx: not an ONNX model, or not all of one",
    ),
    "text as safetensors": (
        {"x.safetensors": "just a text"},
        "x.safetensors",
        "x.safetensors: not whole and well-formed safetensors",
    ),
    "empty gguf": ({"x.gguf": ""}, "x.gguf", "x.gguf: the file is empty, expected a GGUF file"),
    "empty onnx": ({"x.onnx": ""}, "x.onnx", "x.onnx: the file is empty, expected an ONNX model"),
    "empty safetensors": ({"x.safetensors": ""}, "x.safetensors", "x.safetensors: not whole and well-formed"),
    "pickle": ({"x.pt": "PK"}, "x.pt", "x.pt: x.pt is a pickle, which can run any program"),
    "another ending": (
        {"x.txt": "hello"},
        "x.txt",
        "x.txt: found the ending '.txt', expected a .gguf, .onnx or .safetensors file, a packed",
    ),
    "no ending": ({"x": "hello"}, "x", "x: found no ending, expected"),
    "empty directory": ({"d/readme": ""}, "d", "d: found no weights in it, expected a .gguf"),
    "pickles only": (
        {"d/config.json": "{}", "d/pytorch_model.bin": "PK"},
        "d",
        "d: pytorch_model.bin is a pickle",
    ),
    "what run leaves": (
        {"d/gguf/model.gguf": "", "d/packed/packed.json": ""},
        "d",
        "d: found no model right in it; name one of these: ",
    ),
    "shards without index": (
        {"d/a.safetensors": "", "d/b.safetensors": ""},
        "d",
        "d: found 2 safetensors files and no model.safetensors.index.json",
    ),
    "no weight map": (
        {"d/model.safetensors.index.json": "{}"},
        "d",
        "index.json: weight_map is None, expected an object",
    ),
    "shard elsewhere": (
        {"d/model.safetensors.index.json": '{"weight_map": {"a": "../x"}}'},
        "d",
        "index.json: tensor a is said to be in '../x', expected a file of this directory",
    ),
    "missing shard": (
        {"d/model.safetensors.index.json": '{"weight_map": {"a": "x"}}'},
        "d",
        "tensor a is said to be in x, but that shard is missing",
    ),
    "packed of nothing": (
        {"d/packed.json": "{}"},
        "d",
        "packed.json: format is None, expected 'epmq-packed-1'",
    ),
    "packed without grids": (
        {"d/packed.json": '{"format": "epmq-packed-1"}'},
        "d",
        "packed.json: key family is missing, expected the name of a family",
    ),
    "adapter of no JSON": (
        {"d/adapter_config.json": "{", "d/adapter_model.safetensors": "LORA"},
        "d",
        "adapter_config.json: not readable as JSON",
    ),
    "deep config": (
        {"d/config.json": nested(400), "d/model.safetensors": "EMPTY"},
        "d",
        "d: its metadata are nested deeper than 40 levels",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_model_is_one_sentence(case: str, tmp_path: Path) -> None:
    contents, target, sentence = WRONG[case]
    for name, content in contents.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content in ("EMPTY", "LORA"):
            save_file({"a": torch.zeros(1)}, path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        describe(tmp_path / target)
    assert str(caught.value).startswith(str(tmp_path)) and sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_run_leaves_is_named_each_once(tmp_path: Path) -> None:
    files = ("gguf/a.gguf", "onnx/onnx/model_q4.onnx", "packed/packed.json", "packed/packed.safetensors")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    named = ", ".join(str(tmp_path / name) for name in (*files[:2], "packed"))
    with pytest.raises(InputError) as caught:
        describe(tmp_path)
    assert str(caught.value).endswith(f"name one of these: {named}")


def test_a_shard_that_lacks_a_tensor(tmp_path: Path) -> None:
    directory = sharded(tmp_path / "m")
    save_file({"c": torch.zeros(3)}, directory / "two.safetensors")
    with pytest.raises(
        InputError, match=r"tensor b is said to be in two\.safetensors, but that shard has no such tensor"
    ):
        describe(directory)


def tensors(*names: str, type: str = "F32") -> list[TensorDescription]:
    return [TensorDescription(name, type, (2, 2), 16) for name in names]


def test_layers_share_a_row() -> None:
    listed = rows(
        [
            *tensors("e.weight", *(f"blk.{i}.q" for i in range(5))),
            *tensors("blk.7.q", "blk.8.q"),
            *tensors("blk.5.q", type="F16"),
        ]
    )
    assert [(row.tensor.name, row.tensor.type, row.count) for row in listed] == [
        ("e.weight", "F32", 1),
        ("blk.{0-4,7-8}.q", "F32", 7),
        ("blk.5.q", "F16", 1),
    ]
    grid = rows(tensors(*(f"l.{i}.e.{j}.w" for i in range(2) for j in range(3))))
    assert [(row.tensor.name, row.count) for row in grid] == [("l.{0-1}.e.{0-2}.w", 6)]
    assert [row.tensor.name for row in rows(tensors("l.0.e.0.w", "l.1.e.1.w"))] == [
        "l.0.e.0.w",
        "l.1.e.1.w",
    ]  # {0-1} twice would be four
    assert [row.tensor.name for row in rows(tensors("fc1.w", "fc2.w"))] == ["fc1.w", "fc2.w"]


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from("qk")), unique=True, max_size=20)
)
def test_rows_lose_no_tensor(parts: list[tuple[int, int, str]]) -> None:
    listed: list[Row] = rows(tensors(*(f"a.{i}.{kind}.{j}" for i, j, kind in parts)))
    assert sum(row.count for row in listed) == len(parts)


def test_long_values_are_short_for_people() -> None:
    assert short("x" * 100) == "x" * 64 + "… (100 characters)"
    assert short("a\nb\x1b[31m") == "a\\nb\\x1b[31m"
    assert short([1, 2]) == "[1, 2]"
    assert short([f"t{i}" for i in range(30522)]) == "30,522 items: t0, t1, t2, t3, …"
    assert short([{"tensor": "a", "loss": 1.0}] * 36) == "36 items of tensor, loss"
    assert short({"a": 1}) == '{"a": 1}'
    assert short({f"key{i}": i for i in range(50)}) == "50 keys: key0 0, key1 1, key2 2, key3 3, …"


def test_the_origin_is_told_in_lines() -> None:
    assert origin([{"path": "base/x", "sha256": "0123456789abcdef"}]) == "0123456789ab…  base/x"
    assert origin({"torch": "2.13", "numpy": "2"}) == "torch 2.13, numpy 2"
    assert (
        origin({"merge_method": "ties", "tasks": {"a": {"labels": ["x", "y"]}}})
        == "merge_method: ties\ntasks:\n  a:\n    labels:\n    - x\n    - y"
    )
    assert origin("text") == "text"


def test_grids_have_the_bits_that_they_are_said_to_have(tmp_path: Path) -> None:
    for name, bits in (("Q4_0", 4.5), ("Q8_0", 8.5)):
        packed, _ = small_packed(tmp_path / name, small_bert(tmp_path / f"model-{name}"), grid=name)
        assert by_name(describe(packed.directory))[QUERY].bits_per_weight == bits
        assert name in GRIDS


def test_a_gguf_cut_short_is_named(packed: Packed, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0))
    with pytest.raises(InputError, match=r"x\.gguf: says that it has 1 tensors"):
        describe(path)
