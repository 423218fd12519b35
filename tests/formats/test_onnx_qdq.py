"""The ONNX format: lossless, the same bytes again, and every difference from the packed checkpoint named."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import ModelProto, TensorProto, helper, numpy_helper

from converters import open_family
from epmq_export import __version__
from epmq_export.errors import InputError
from epmq_export.grids import GRIDS
from epmq_export.models.family import Family
from epmq_export.models.format import StoredTensor
from epmq_export.tensors import packed_writer
from epmq_export.tensors.packed import Packed, PackedTensor
from formats.onnx import parts as onnx_parts
from formats.onnx import weights as onnx_weights
from formats.onnx.format import OnnxQdq
from formats.onnx.parts import PARTS
from tests.command_line.command import Warm
from tests.tiny.grid_points import random_point
from tests.tiny.onnx_encoders import Written, encoder, minilm, notes, pack, small, small_on
from tests.tiny.packed_index import an_index

FORMAT = OnnxQdq()
QUERY = "encoder.layer.0.attention.self.query.weight"
_TYPES: dict[int, type[np.generic]] = {
    TensorProto.UINT2: np.uint8,
    TensorProto.INT4: np.int8,
    TensorProto.INT8: np.int8,
    TensorProto.FLOAT16: np.float16,
    TensorProto.FLOAT: np.float32,
}


@given(
    st.data(), st.sampled_from(list(_TYPES)), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=7)
)
def test_weights_survive_their_bytes(data: st.DataObject, kind: int, shape: tuple[int, ...]) -> None:
    elements = {TensorProto.INT4: st.integers(-8, 7), TensorProto.UINT2: st.integers(0, 3)}.get(kind)
    value = data.draw(hnp.arrays(_TYPES[kind], shape, elements=elements))
    tensor = TensorProto(name="w", dims=shape, data_type=kind)
    tensor.raw_data = onnx_weights.encode(tensor, torch.from_numpy(value))
    onnx_weights.check(tensor, len(tensor.raw_data), "file")
    back = onnx_weights.decode(tensor, tensor.raw_data).numpy()
    assert back.dtype == value.dtype and back.shape == value.shape and back.tobytes() == value.tobytes()
    # onnx's own reader agrees
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(value.dtype), value)


@given(st.integers(0, 2**16 - 1).map(np.uint16), st.integers(0, 12))
def test_a_scale_is_a_float16_or_equals_none(bits: np.uint16, flipped: int) -> None:
    half = torch.from_numpy(np.array([bits]).view(np.float16))
    if half.isnan():
        return
    assert torch.equal(onnx_parts.halves(half.float()).view(torch.int16), half.view(torch.int16))
    if half.isfinite():
        other = (half.float().view(torch.int32) ^ (1 << flipped)).view(torch.float32)
        assert onnx_parts.halves(other).isnan().all()


@pytest.mark.parametrize("name", PARTS)
@settings(max_examples=25)
@given(out=st.integers(1, 5), groups=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_initializers_hold_any_point_of_a_grid(name: str, out: int, groups: int, seed: int) -> None:
    held = random_point(GRIDS[name], out, groups, seed)
    values = {part: onnx_parts.part_of(held, part) for part in PARTS[name]}
    values["scales"] = values["scales"].float()
    found = onnx_parts.packed_of(held.grid, values)
    assert torch.equal(found.codes, held.codes) and found.stored.keys() == held.stored.keys()
    assert all(torch.equal(found.stored[part], held.stored[part]) for part in held.stored)
    codes = values["codes"].reshape(out, groups, -1).float()
    zeros = values["zeros"].float()[:, :, None] if "zeros" in values else 0.0
    decoded = ((codes - zeros) * values["scales"][:, :, None]).reshape(out, -1)
    assert torch.equal(decoded.view(torch.int32), held.dequantise().view(torch.int32))


def test_zero_points_that_are_none_of_the_grid_give_no_scale() -> None:
    held = random_point(GRIDS["Q2_0"], 2, 3, 0)
    values = {part: onnx_parts.part_of(held, part) for part in PARTS["Q2_0"]}
    values |= {"scales": values["scales"].float(), "zeros": torch.tensor([[1, 2, 1], [1, 1, 0]])}
    assert onnx_parts.packed_of(held.grid, values).stored["scales"].isnan().tolist() == [
        [False, True, False],
        [False, False, True],
    ]


def by_name(path: Path, family: Family) -> dict[str, StoredTensor]:
    return {stored.name: stored for stored in FORMAT.open(path, family).tensors()}


def unequal(model: Written, path: Path) -> list[str]:
    """Names of tensors that are not bit for bit the packed checkpoint's."""
    found = by_name(path, model.family)
    wrong = []
    for name in sorted(found.keys() | set(model.packed.names())):
        value, expected = found[name].value, model.packed.tensor(name)
        if isinstance(expected, PackedTensor):
            assert isinstance(value, PackedTensor)
            same = value.grid == expected.grid and torch.equal(value.codes, expected.codes)
            same = same and all(
                torch.equal(value.stored[part], numbers) for part, numbers in expected.stored.items()
            )
        else:
            same = (
                isinstance(value, torch.Tensor)
                and value.dtype == expected.dtype
                and torch.equal(value, expected)
            )
        wrong += [] if same else [name]
    return wrong


@pytest.mark.parametrize("build", [minilm, small, *(partial(small_on, grid) for grid in PARTS)])
def test_what_is_written_is_what_was_packed(build: Callable[[], Written]) -> None:
    model = build()
    assert unequal(model, model.path) == []
    assert FORMAT.open(model.path, model.family).differences(model.packed) == []
    linear = 6 * model.family.config.num_hidden_layers
    assert notes(model.path, model.family) == {"linears": linear, "fused": linear}


def test_types_in_the_file() -> None:
    stored = {tensor.name: tensor for tensor in onnx.load(small().path).graph.initializer}
    assert stored[f"{QUERY}.codes"].data_type == TensorProto.INT4
    assert list(stored[f"{QUERY}.codes"].dims) == [128, 128]
    assert stored[f"{QUERY}.scales"].data_type == TensorProto.FLOAT
    assert list(stored[f"{QUERY}.scales"].dims) == [4, 128]
    assert stored["embeddings.word_embeddings.weight"].data_type == TensorProto.FLOAT16
    assert stored["embeddings.position_embeddings.weight"].data_type == TensorProto.FLOAT
    assert stored["encoder.layer.1.output.dense.bias"].data_type == TensorProto.FLOAT
    rows = {tensor.name: tensor for tensor in onnx.load(small_on("Q4_0").path).graph.initializer}
    assert rows["embeddings.word_embeddings.weight.codes"].data_type == TensorProto.INT8


def test_equal_layers_stay_apart(tmp_path: Path) -> None:
    source = encoder(tmp_path / "source", width=128, heads=4, inner=256, layers=2, equal=True)
    checkpoint = pack(source, tmp_path / "packed", "F16", "Q4_0")
    (tmp_path / "onnx").mkdir()
    path = FORMAT.write(checkpoint, open_family(source), tmp_path / "onnx")
    assert notes(path, open_family(source)) == {"linears": 12, "fused": 12}


def test_layout_and_provenance() -> None:
    model = minilm()
    files = {str(path.relative_to(model.folder)) for path in model.folder.rglob("*") if path.is_file()}
    assert {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "1_Pooling/config.json",
        "onnx/model_q4.onnx",
    } <= files
    assert not any("packed.json" in name or name.endswith((".safetensors", ".partial")) for name in files)
    proto = onnx.load(model.path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(opset.domain, opset.version) for opset in proto.opset_import] == [("", 21)]
    metadata = {item.key: item.value for item in proto.metadata_props}
    assert metadata["epmq.version"] == __version__
    assert json.loads(metadata["epmq.recipe"]) == {"merge_method": "ties", "größe": 2.0}
    assert json.loads(metadata["epmq.inputs"]) == [{"path": "base", "sha256": "0" * 64}]
    assert json.loads(metadata["epmq.method"]) == {"name": "rtn"}
    names = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert names == {
        **{name: ["batch", "sequence"] for name in ("input_ids", "attention_mask", "token_type_ids")},
        "last_hidden_state": ["batch", "sequence", 384],
        "sentence_embedding": ["batch", 384],
    }


def test_nothing_of_this_machine() -> None:
    content = small().path.read_bytes()
    for local in (str(Path.cwd()), str(Path.home()), sys.prefix, "site-packages", "stack_trace", ".py"):
        assert local.encode() not in content


def test_same_bytes_from_another_process_and_no_word_on_its_terminal(epmq: Warm, tmp_path: Path) -> None:
    """It has other hashes of strings, and traces anew."""
    model = small()
    program = (
        "import sys; from pathlib import Path; from converters import open_family; from "
        "epmq_export.tensors.packed "
        "import Packed; from formats.onnx import trace; from formats.onnx.format import OnnxQdq; from "
        "tests.tiny.traced_once import exported\n"
        "trace._exported = exported\n"
        "packed = Packed(Path(sys.argv[1])); OnnxQdq().write(packed, open_family(packed.directory), "
        "Path(sys.argv[2])); print(hash('a'))"
    )
    done = epmq.program(program, model.packed.directory, tmp_path)
    assert (done.code, done.stderr) == (0, "") and int(done.stdout) != hash("a")
    assert FORMAT.find(tmp_path, model.family).read_bytes() == model.path.read_bytes()


@pytest.fixture
def copy(tmp_path: Path) -> Written:
    model = small()
    shutil.copytree(model.folder, tmp_path / "onnx")
    return replace(model, path=FORMAT.find(tmp_path / "onnx", model.family))


class Change:
    """A model to change and save again."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> ModelProto:
        self.model = onnx.load(self.path)
        return self.model

    def __exit__(self, *_: object) -> None:
        onnx.save(self.model, self.path)


def initializer(model: ModelProto, name: str) -> TensorProto:
    found: TensorProto = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return found


def flip(tensor: TensorProto, byte: int, bit: int) -> None:
    raw = bytearray(tensor.raw_data)
    raw[byte] ^= 1 << bit
    tensor.raw_data = bytes(raw)


@pytest.mark.parametrize("bit", [0, 7])
def test_flipped_nibble(copy: Written, bit: int) -> None:
    with Change(copy.path) as model:
        flip(initializer(model, f"{QUERY}.codes"), 1000, bit)
    assert unequal(copy, copy.path) == [QUERY]


@pytest.mark.parametrize("bit", range(32))
def test_flipped_scale(copy: Written, bit: int) -> None:
    with Change(copy.path) as model:
        flip(initializer(model, f"{QUERY}.scales"), 4 * 77 + bit // 8, bit % 8)
    assert unequal(copy, copy.path) == [QUERY]


@pytest.mark.parametrize(
    "name", ["embeddings.word_embeddings.weight", "encoder.layer.1.output.LayerNorm.bias"]
)
def test_flipped_plain_weight(copy: Written, name: str) -> None:
    with Change(copy.path) as model:
        flip(initializer(model, name), 10, 0)
    assert unequal(copy, copy.path) == [name]


def test_flipped_metadata(copy: Written) -> None:
    for i, item in enumerate(onnx.load(copy.path).metadata_props):
        with Change(copy.path) as model:
            model.metadata_props[i].value = item.value[:-1] + chr(ord(item.value[-1]) ^ 1)
        (sentence,) = FORMAT.open(copy.path, copy.family).differences(copy.packed)
        assert item.key in sentence
        with Change(copy.path) as model:
            model.metadata_props[i].value = item.value
    assert FORMAT.open(copy.path, copy.family).differences(copy.packed) == []


def test_missing_and_added_metadata(copy: Written) -> None:
    with Change(copy.path) as model:
        del model.metadata_props[1]
        model.metadata_props.add(key="author", value="someone")
    added, missing = FORMAT.open(copy.path, copy.family).differences(copy.packed)
    assert added == "metadata key author is 'someone', expected missing"
    assert missing.startswith("metadata key epmq.recipe is missing, expected '{")


def test_changed_graph(copy: Written) -> None:
    with Change(copy.path) as model:
        norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
        next(attribute for attribute in norm.attribute if attribute.name == "epsilon").f = 1e-5
    (sentence,) = FORMAT.open(copy.path, copy.family).differences(copy.packed)
    assert "graph" in sentence
    assert unequal(copy, copy.path) == []


@pytest.mark.parametrize("build", [minilm, small])
def test_only_a_cast_reads_half_precision(build: Callable[[], Written]) -> None:
    """A GPU without half precision, as WebGPU often has it, cannot do anything else with it."""
    graph = onnx.load(build().path).graph
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    assert halves == {"embeddings.word_embeddings.weight"}
    (reader,) = [node for node in graph.node if halves & set(node.input)]
    assert reader.op_type == "Cast" and reader.attribute[0].i == TensorProto.FLOAT
    assert reader.output[0] in {node.input[0] for node in graph.node if node.op_type == "Gather"}


@pytest.mark.parametrize("how", ["gathered", "made", "constant"])
def test_half_precision_elsewhere_is_told(copy: Written, how: str) -> None:
    table = "embeddings.word_embeddings.weight"
    with Change(copy.path) as model:
        nodes = model.graph.node
        if how == "gathered":
            gather = next(node for node in nodes if f"{table}.float" in node.input)
            gather.input[0] = table
        elif how == "made":
            nodes.insert(0, helper.make_node("Cast", [f"{QUERY}.scales"], ["extra"], to=TensorProto.FLOAT16))
        else:
            half = helper.make_tensor("value", TensorProto.FLOAT16, [1], [1.0])
            nodes.insert(0, helper.make_node("Constant", [], ["extra"], value=half))
    found = FORMAT.open(copy.path, copy.family).differences(copy.packed)
    name = table if how == "gathered" else "extra"
    told = f"model_q4.onnx: {name} is float16 (tensors like it: "
    assert len(found) == 2 and found[0].startswith(told) and "the graph's SHA-256" in found[1]
    assert "expected a weight that only a Cast reads" in found[0]


@pytest.mark.parametrize("what", ["opset", "output", "axis", "node"])
def test_changed_interface(copy: Written, what: str) -> None:
    with Change(copy.path) as model:
        if what == "opset":
            model.opset_import[0].version = 22
        elif what == "output":
            del model.graph.output[0]
        elif what == "axis":
            model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 128
        else:
            model.graph.node[-1].name += "_"
    (sentence,) = FORMAT.open(copy.path, copy.family).differences(copy.packed)
    assert "graph" in sentence


def test_changed_companions(copy: Written) -> None:
    folder = copy.path.parent.parent
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8")
    (folder / "vocab.txt").write_text(vocabulary.replace("sentence", "sentense"), encoding="utf-8")
    (folder / "config.json").unlink()
    (folder / "added_tokens.json").write_text("{}", encoding="utf-8")
    assert FORMAT.open(copy.path, copy.family).differences(copy.packed) == [
        "added_tokens.json is not among the packed checkpoint's files",
        "config.json is missing",
        "vocab.txt differs from the packed checkpoint's",
    ]


def test_other_checkpoint() -> None:
    assert any(
        "epmq.grids" in sentence
        for sentence in FORMAT.open(small().path, small().family).differences(small_on("Q8_0").packed)
    )


def test_tensor_that_the_model_does_not_know(tmp_path: Path) -> None:
    model = small()
    tensors = {name: model.packed.tensor(name) for name in model.packed.names()}
    packed_writer.write(
        tmp_path / "packed",
        {**tensors, "encoder.extra.weight": torch.zeros(3)},
        an_index(),
        model.packed.directory,
    )
    (tmp_path / "onnx").mkdir()
    with pytest.raises(
        InputError, match=r"packed: the exported model does not use tensor encoder\.extra\.weight"
    ):
        FORMAT.write(Packed(tmp_path / "packed"), model.family, tmp_path / "onnx")
    assert not list((tmp_path / "onnx").iterdir())


def test_find(tmp_path: Path) -> None:
    assert FORMAT.find(small().folder, small().family) == small().path
    with pytest.raises(InputError, match=r"it has no onnx/model_q4\.onnx"):
        FORMAT.find(tmp_path, small().family)
    assert FORMAT.open(small().path, small().family).exact(small().path, tmp_path) == small().path
