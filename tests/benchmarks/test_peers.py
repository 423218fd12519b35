"""Peers on a small model: what they ship is on their grid, near the merge, and runs in their runtime."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from gguf import GGMLQuantizationType, dequantize
from transformers import MixtralForCausalLM

from benchmarks.accuracy.judge import full_precision
from benchmarks.accuracy.laboratory import Laboratory
from benchmarks.peers import Merge, Quantised, known, llm_compressor
from benchmarks.peers.imatrix import importance
from benchmarks.peers.llama_cpp import LlamaQuantize
from benchmarks.peers.llm_compressor import LlmCompressor
from benchmarks.peers.onnxruntime import MatMulNBits, fold_transposes
from benchmarks.peers.peer import in_pytorch
from epmq_export.errors import InputError
from epmq_export.models.blocks import linears
from epmq_export.models.reference import outputs
from epmq_export.tensors import packed_writer
from epmq_export.tensors.gguf_file import GgufFile
from epmq_export.tensors.packed import Packed
from formats.gguf.spec import spec_of
from formats.onnx.format import OnnxQdq
from tests.tiny import decoder
from tests.tiny.decoder_files import opened
from tests.tiny.packed_index import an_index

TEXTS = ["the weather is good", "the café", "good good good !", "is the weather good , the cafe"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def merge(laboratory: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Merge:
    return full_precision(
        laboratory.experiment("TA 1.0", "epmq"), tmp_path_factory.mktemp("merge") / "merged"
    )


def distance(merge: Merge, found: np.ndarray) -> float:
    expected = outputs(merge.family, merge.packed, TEXTS, CPU)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def run(merge: Merge, quantised: Quantised) -> dict[str, float]:
    return {stage: distance(merge, call(TEXTS)) for stage, call in quantised.runs.items()}


def test_the_linears_are_those_that_we_quantise(merge: Merge) -> None:
    assert len(linears(merge.family)) == 12
    assert {merge.packed.load(name).ndim for name in linears(merge.family)} == {2}
    assert not any("LayerNorm" in name or "embeddings" in name for name in linears(merge.family))


def test_embeddings_are_in_half_precision_and_all_else_is_the_merge(
    laboratory: Laboratory, merge: Merge
) -> None:
    merged = laboratory.experiment("TA 1.0", "epmq").models.merged
    for name in merge.packed.names():
        expected = merged.load(name).half() if name in merge.family.embeddings else merged.load(name).float()
        assert torch.equal(merge.packed.load(name), expected), name


@pytest.mark.parametrize("imatrix", [False, True])
@pytest.mark.parametrize(("grid", "bits"), [("Q4_0", 4.5), ("Q4_K", 5.5)])
def test_llama_cpp(merge: Merge, tmp_path: Path, grid: str, bits: float, imatrix: bool) -> None:
    peer = LlamaQuantize(grid, imatrix)
    assert peer.missing() is None
    quantised = peer.quantise(merge, tmp_path)
    assert quantised.bits == bits
    assert (quantised.note is not None) == (grid == "Q4_K")  # all rows are narrower than 256
    found = run(merge, quantised)
    assert [*found] == ["packed", "gguf"] and 0 < found["packed"] < 0.3 and 0 < found["gguf"] < 0.3
    file = GgufFile.open(tmp_path / "quantised.gguf")
    kinds = {file.tensors[spec_of(merge.family).names[name]].type.name for name in linears(merge.family)}
    assert kinds == {"Q4_0" if grid == "Q4_0" else "Q5_0"}


def test_what_is_scored_in_pytorch_is_what_the_gguf_holds(merge: Merge, tmp_path: Path) -> None:
    quantised = LlamaQuantize("Q4_0", True).quantise(merge, tmp_path)
    file, names = GgufFile.open(tmp_path / "quantised.gguf"), spec_of(merge.family).names
    held = {}
    for name in linears(merge.family):
        info = file.tensors[names[name]]
        held[name] = torch.from_numpy(
            dequantize(np.array(file.raw(names[name])), GGMLQuantizationType.Q4_0).reshape(info.shape)
        )
    assert np.array_equal(quantised.runs["packed"](TEXTS), in_pytorch(merge, held)(TEXTS))


def test_a_row_of_256_takes_q4_k() -> None:
    assert [LlamaQuantize("Q4_K", False).grid_of(width) for width in (1536, 256, 384)] == [
        "Q4_K",
        "Q4_K",
        "Q5_0",
    ]
    assert LlamaQuantize("Q4_0", False).grid_of(384) == "Q4_0"


def test_the_importance_is_the_mean_square_of_each_input(merge: Merge) -> None:
    found = importance(merge)
    assert sorted(found) == sorted(linears(merge.family))
    # The first block's queries are given the embeddings: slowly, a text at a time, without padding.
    stem = merge.family.blocks[0]
    rows = []
    for text in merge.texts:
        (batch,) = merge.family.batches([text], 1)
        module = stem.build()
        module.load_state_dict(
            {path: merge.packed.load(f"{stem.name}.{path}").float() for path in module.state_dict()},
            assign=True,
        )
        with torch.no_grad():
            rows.append(stem.run(module, None, batch)[0])
    expected = torch.cat(rows).double().square().mean(0).float()
    for kind in ("query", "key", "value"):
        torch.testing.assert_close(
            found[f"encoder.layer.0.attention.self.{kind}.weight"], expected, rtol=1e-5, atol=1e-7
        )


@pytest.fixture(scope="module")
def exported(merge: Merge, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The merge as ONNX, written once: the exporter takes seconds."""
    folder = tmp_path_factory.mktemp("exported")
    OnnxQdq().write(merge.packed, merge.family, folder)
    return folder


@pytest.mark.parametrize(("algorithm", "bits"), [("default", 5.0), ("HQQ", 6.0)])
def test_onnx_runtime(
    merge: Merge, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str, bits: float
) -> None:
    monkeypatch.setattr(
        OnnxQdq,
        "write",
        lambda self, packed, family, folder: OnnxQdq().find(
            shutil.copytree(exported, folder, dirs_exist_ok=True), family
        ),
    )
    peer = MatMulNBits(algorithm)
    assert peer.missing() is None
    quantised = peer.quantise(merge, tmp_path)
    assert quantised.bits == bits  # scales, and HQQ's zero points, are float32
    assert 0 < run(merge, quantised)["onnx"] < 0.3


def test_folding_transposes_keeps_what_the_graph_computes() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    nodes = [
        onnx.helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        onnx.helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, width])
        for name, width in (("x", 3), ("y", 2))
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], [onnx.numpy_helper.from_array(weight, "w")])
    )
    fold_transposes(model)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    (stored,) = model.graph.initializer
    assert np.array_equal(onnx.numpy_helper.to_array(stored), weight.T)


STAND_IN = """
import json, pathlib, sys
from safetensors.torch import load_file, save_file
asked = json.loads(pathlib.Path(sys.argv[1]).read_text())
weights = load_file(asked["model"] + "/model.safetensors")
save_file({name: weights[name] * 0.9 for name in asked["linears"]}, asked["weights"])
answer = {"version": "0", "bits": 5.0, "nearest": ["encoder.layer.0.output.dense"]}
pathlib.Path(asked["answer"]).write_text(json.dumps(answer))
"""


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> Path:
    worker = folder / "worker.py"
    worker.write_text(code)
    monkeypatch.setattr(llm_compressor, "WORKER", worker)
    place = folder / "place"
    place.mkdir()
    return place


def test_llm_compressors_fallback_is_told(
    merge: Merge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = LlmCompressor(Path(sys.executable))
    quantised = peer.quantise(merge, stand_in(monkeypatch, tmp_path, STAND_IN))
    assert (
        quantised.note
        == "llmcompressor 0; rounded to the nearest by its own fallback: encoder.layer.0.output.dense"
    )
    assert quantised.bits == 5.0 and 0 < run(merge, quantised)["packed"] < 0.5
    asked = json.loads((tmp_path / "place" / "request.json").read_text())
    assert asked["texts"] == list(merge.texts) and asked["linears"] == linears(merge.family)


def test_llm_compressors_failure_is_an_error_with_its_words(
    merge: Merge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"llm-compressor fails \(no such layer\)"):
        LlmCompressor(Path(sys.executable)).quantise(
            merge, stand_in(monkeypatch, tmp_path, "raise SystemExit('no such layer')")
        )


def test_a_peer_without_its_environment_says_what_it_needs() -> None:
    assert "--peer-python" in (LlmCompressor(None).missing() or "")
    assert "no such file" in (LlmCompressor(Path("nowhere/python")).missing() or "")
    assert LlmCompressor(Path(sys.executable)).missing() is None


def test_names_are_distinct_and_settings_can_be_stored() -> None:
    peers = known()
    assert len(peers) == 7
    for peer in peers.values():
        assert json.loads(json.dumps(peer.settings)) == peer.settings
        assert peer.stages


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Merge:
    """A mixture one of whose experts no token of the text reaches."""
    family, source = opened(decoder.write(tmp_path_factory.mktemp("mixture") / "model", "mixtral"))
    place = tmp_path_factory.mktemp("mixture") / "packed"
    tensors = {name: source.load(name).float() for name in source.names()}
    packed_writer.write(place, tensors, an_index(family.name), family.directory)
    return Merge(Packed(place), family, ["the cat"])


def test_the_importance_in_a_mixture_is_of_the_tokens_that_reach_the_expert(mixture: Merge) -> None:
    found = importance(mixture)
    assert sorted(found) == sorted(linears(mixture.family))
    model = MixtralForCausalLM.from_pretrained(mixture.family.directory).eval()
    given: list[torch.Tensor] = []
    block = model.model.layers[1].mlp
    block.register_forward_pre_hook(lambda module, arguments: given.append(arguments[0][0]))
    with torch.no_grad():
        model(torch.tensor([mixture.family.tokenizer("the cat")["input_ids"]]))
        _, _, chosen = block.gate(given[0])
    counts = [int((chosen == expert).sum()) for expert in range(4)]
    assert 0 in counts and sum(counts) == 2 * len(given[0])
    for expert, count in enumerate(counts):
        rows = given[0][(chosen == expert).any(-1)]
        expected = rows.double().square().mean(0).float() if count else torch.ones(64)
        name = f"model.layers.1.block_sparse_moe.experts.{expert}"
        torch.testing.assert_close(found[f"{name}.w1.weight"], expected, rtol=1e-4, atol=1e-6)
        assert torch.equal(found[f"{name}.w1.weight"], found[f"{name}.w3.weight"])
        assert bool((found[f"{name}.w2.weight"] == 1).all()) == (count == 0)


def test_llama_cpp_on_a_mixture(mixture: Merge, tmp_path: Path) -> None:
    quantised = LlamaQuantize("Q4_0", True).quantise(mixture, tmp_path)
    found = run(mixture, quantised)
    assert quantised.bits == 4.5 and 0 < found["packed"] < 0.5 and 0 < found["gguf"] < 0.5
    info = GgufFile.open(tmp_path / "quantised.gguf").tensors["blk.1.ffn_down_exps.weight"]
    assert (info.shape, info.type.name) == ((4, 64, 64), "Q4_0")
