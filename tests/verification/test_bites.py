"""One thing wrong in a good file: `epmq verify` exits 1, names it, and the check meant for it is the one that
fails.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from epmq_export.tensors.gguf_file import GgufFile
from epmq_export.verification.report import SCHEMA
from tests.command_line.command import Result, Warm
from tests.tiny.gguf_edits import edited, tensor_at, token_at, value_at
from tests.tiny.recipe_project import VOCABULARY, WORDS, Project

QUERY = "encoder.layer.1.attention.self.query"
GGUF_QUERY, GGUF_KEY = "blk.1.attn_q", "blk.1.attn_k"


class Judged:
    """What `epmq verify` made of an output."""

    def __init__(self, result: Result, report: Path) -> None:
        self.result = result
        self.report: Any = json.loads(report.read_text(encoding="utf-8"))
        jsonschema.validate(self.report, json.loads(SCHEMA.read_text(encoding="utf-8")))
        (self.file,) = self.report["files"]
        checks = self.file["checks"]
        passed = {
            "codes": checks["codes"]["equal"],
            "metadata": checks["metadata"]["equal"],
            "graph": checks["graph"]["passed"],
        }
        if checks["tasks"] is not None:
            passed["tasks"] = checks["tasks"]["passed"]
        self.failed = {name for name, good in passed.items() if not good}

    def says(self, *parts: str) -> bool:
        """Whether one of the broken sentences holds all the parts; the first sentence is also the error, and
        each is shown.
        """
        broken = self.report["broken"]
        assert self.result.code == 1 and self.report["verdict"] == "fail" and broken
        assert f"verification failed: {broken[0]}" in self.result.error
        assert "verdict: fail" in self.result.stdout
        return any(all(part in sentence for part in parts) for sentence in broken)


Judge = Callable[..., Judged]


@pytest.fixture
def judge(epmq: Warm, ran: tuple[Path, Result], tmp_path: Path) -> Judge:
    """Copy the packed checkpoint and one written file of the good run, let `change` spoil the copy, and
    verify it.
    """

    def judge(format: str, change: Callable[[Path], object], *options: str | Path) -> Judged:
        for part in ("packed", format):
            shutil.copytree(ran[0] / part, tmp_path / "out" / part)
        path = (
            tmp_path
            / "out"
            / {"gguf": "gguf/base-merged-Q4_0.gguf", "onnx": "onnx/onnx/model_q4.onnx"}[format]
        )
        change(path)
        return Judged(
            epmq("verify", "out", "--json", "report.json", *options, folder=tmp_path),
            tmp_path / "report.json",
        )

    return judge


def test_the_good_files_pass(judge: Judge, tmp_path: Path) -> None:
    good = judge("gguf", lambda path: None)
    assert good.result.code == 0 and good.report["verdict"] == "pass" and not good.failed
    assert "names no recipe, so the tasks are not checked" in good.result.stderr
    assert good.file["checks"]["tasks"] is None


# GGUF.


def flip(at: int, mask: int) -> Callable[[Path], object]:
    def change(path: Path) -> None:
        content = path.read_bytes()
        edited(path, path, at, bytes([content[at] ^ mask]))

    return change


def test_gguf_one_nibble(judge: Judge) -> None:
    # a block is a float16 scale and 16 bytes of codes
    bad = judge(
        "gguf", lambda path: flip(tensor_at(path, f"{GGUF_QUERY}.weight") + 18 * 7 + 2 + 5, 0x10)(path)
    )
    assert bad.says(f"{QUERY}.weight", "1 of 16384 codes and 0 of 512 scales differ")
    assert "codes" in bad.failed and "metadata" not in bad.failed


def test_gguf_one_scale(judge: Judge) -> None:
    bad = judge("gguf", lambda path: flip(tensor_at(path, f"{GGUF_QUERY}.weight") + 18 * 7, 0x01)(path))
    assert bad.says(f"{QUERY}.weight", "0 of 16384 codes and 1 of 512 scales differ")
    assert "codes" in bad.failed and "metadata" not in bad.failed


def test_gguf_one_metadata_key(judge: Judge) -> None:
    key = "bert.attention.layer_norm_epsilon"
    bad = judge("gguf", lambda path: edited(path, path, value_at(path, key), np.float32(1e-3).tobytes()))
    assert bad.says(f"key {key}: found 0.001", "expected 9.99")
    assert "metadata" in bad.failed and "codes" not in bad.failed


def test_gguf_provenance(judge: Judge) -> None:
    def change(path: Path) -> None:
        found = re.search(rb'"samples": ?(16)', path.read_bytes())
        assert found is not None
        edited(path, path, found.start(1), b"61")

    bad = judge("gguf", change)
    assert bad.failed == {"metadata"}  # it computes what it should, and lies of its origin
    assert bad.says("key epmq.recipe")


def test_gguf_one_token(judge: Judge) -> None:
    # a word of the probes' alphabet would show in the graph as well; a made-up one shows in the metadata
    # alone
    word, other = f"▁{WORDS[500]}", f"▁{WORDS[500][::-1]}"
    bad = judge("gguf", lambda path: edited(path, path, token_at(path, word), other.encode()))
    assert bad.failed == {"metadata"}
    assert bad.says(
        f"key tokenizer.ggml.tokens[{VOCABULARY.index(WORDS[500])}]", WORDS[500], WORDS[500][::-1]
    )


def test_gguf_wrong_pooling_shows_in_graph_and_tasks(judge: Judge, project: Project) -> None:
    key = "bert.pooling_type"
    bad = judge(
        "gguf",
        lambda path: edited(path, path, value_at(path, key), (2).to_bytes(4, "little")),
        "--recipe",
        project.recipe,
    )
    assert bad.failed == {"metadata", "graph", "tasks"}
    assert bad.says(f"key {key}: found 2, expected 1")
    assert bad.says("rms_relative difference between llama.cpp and PyTorch is", "tolerance 1e-03")
    assert bad.says("task unlabelled: the cosine distance from the reference is", "margin 0.02")


def test_gguf_cut_off(judge: Judge) -> None:
    bad = judge("gguf", lambda path: path.write_bytes(path.read_bytes()[:-5000]))
    assert bad.failed == {"codes", "metadata", "graph"}
    assert bad.says("gguf/base-merged-Q4_0.gguf: ends within tensor ")


def test_gguf_two_tensors_swapped(judge: Judge) -> None:
    def change(path: Path) -> None:
        tensors, content = GgufFile.open(path).tensors, bytearray(path.read_bytes())
        one, other = (
            slice(
                tensors[f"{name}.weight"].start,
                tensors[f"{name}.weight"].start + tensors[f"{name}.weight"].size,
            )
            for name in (GGUF_QUERY, GGUF_KEY)
        )
        content[one], content[other] = content[other], content[one]
        path.write_bytes(content)

    bad = judge("gguf", change)
    assert {"codes", "graph"} == bad.failed
    assert bad.says(f"{QUERY}.weight", "codes and") and bad.says(
        "layer.1.attention.self.key.weight", "codes and"
    )


def test_gguf_a_bias_set_to_zero(judge: Judge) -> None:
    name = "blk.0.layer_output_norm.bias"
    bad = judge("gguf", lambda path: edited(path, path, tensor_at(path, name), bytes(4 * 128)))
    assert bad.failed == {"codes", "graph"}
    assert bad.says("encoder.layer.0.output.LayerNorm.bias", "values differ")


# ONNX.


def onnx_change(change: Callable[[ModelProto], object]) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        model = onnx.load(path)
        change(model)
        path.write_bytes(model.SerializeToString(deterministic=True))

    return spoil


def initializer(model: ModelProto, name: str) -> TensorProto:
    (found,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    assert isinstance(found, TensorProto)
    return found


def flip_data(name: str, at: int, mask: int) -> Callable[[Path], object]:
    def change(model: ModelProto) -> None:
        tensor = initializer(model, name)
        data = bytearray(tensor.raw_data)
        data[at] ^= mask
        tensor.raw_data = bytes(data)

    return onnx_change(change)


def test_onnx_one_nibble(judge: Judge) -> None:
    bad = judge("onnx", flip_data(f"{QUERY}.weight.codes", 1234, 0x40))
    assert bad.says(f"{QUERY}.weight", "1 of 16384 codes and 0 of 512 scales differ")
    assert "codes" in bad.failed and "metadata" not in bad.failed


@pytest.mark.parametrize("byte", [0, 2], ids=["no float16", "another float16"])
def test_onnx_one_scale(judge: Judge, byte: int) -> None:
    bad = judge("onnx", flip_data(f"{QUERY}.weight.scales", 4 * 99 + byte, 0x20))
    assert bad.says(f"{QUERY}.weight", "0 of 16384 codes and 1 of 512 scales differ")
    assert "codes" in bad.failed and "metadata" not in bad.failed


@pytest.mark.parametrize("key", ["epmq.recipe", "epmq.inputs", "epmq.version", "epmq.graph"])
def test_onnx_one_metadata_key(judge: Judge, key: str) -> None:
    def change(model: ModelProto) -> None:
        item = next(item for item in model.metadata_props if item.key == key)
        item.value = item.value.replace("1", "2", 1)

    bad = judge("onnx", onnx_change(change))
    assert bad.failed == {"metadata"}
    assert bad.says(f"metadata key {key} is ")


def test_onnx_one_token(judge: Judge) -> None:
    def change(path: Path) -> None:
        tokenizer = path.parent.parent / "tokenizer.json"
        content = json.loads(tokenizer.read_text(encoding="utf-8"))
        vocabulary = content["model"]["vocab"]
        vocabulary["zzzz"] = vocabulary.pop(WORDS[500])
        tokenizer.write_text(json.dumps(content), encoding="utf-8")

    bad = judge("onnx", change)
    assert bad.failed == {"metadata"}
    assert bad.says("tokenizer.json differs from the packed checkpoint's")


def test_onnx_config_changed(judge: Judge) -> None:
    def change(path: Path) -> None:
        config = path.parent.parent / "config.json"
        config.write_text(config.read_text().replace('"num_attention_heads": 4', '"num_attention_heads": 8'))

    bad = judge("onnx", change)
    assert bad.failed == {"metadata"}
    assert bad.says("out/onnx/onnx/model_q4.onnx: config.json differs from the packed checkpoint's")


def test_onnx_graph_changed(judge: Judge) -> None:
    """Another epsilon in one LayerNormalization: no weight differs."""

    def change(model: ModelProto) -> None:
        node = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
        kept = [attribute for attribute in node.attribute if attribute.name != "epsilon"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("epsilon", 0.5)])

    bad = judge("onnx", onnx_change(change))
    assert bad.failed == {"metadata", "graph"}
    assert bad.says("the graph's SHA-256 is ") and bad.says(
        "rms_relative difference between onnxruntime and PyTorch is"
    )


def test_onnx_cut_off(judge: Judge) -> None:
    bad = judge("onnx", lambda path: path.write_bytes(path.read_bytes()[:-5000]))
    assert bad.failed == {"codes", "metadata", "graph"}
    assert bad.says("onnx/model_q4.onnx: ")


def test_onnx_two_tensors_swapped(judge: Judge) -> None:
    def change(model: ModelProto) -> None:
        for part in ("codes", "scales"):
            one, other = (
                initializer(model, f"encoder.layer.1.attention.self.{name}.weight.{part}")
                for name in ("query", "key")
            )
            one.raw_data, other.raw_data = other.raw_data, one.raw_data

    bad = judge("onnx", onnx_change(change))
    assert bad.failed == {"codes", "graph"}
    assert bad.says(f"{QUERY}.weight", "codes and")


def test_onnx_a_bias_set_to_zero(judge: Judge) -> None:
    def change(model: ModelProto) -> None:
        bias = initializer(model, "encoder.layer.0.output.LayerNorm.bias")
        bias.raw_data = bytes(len(bias.raw_data))

    bad = judge("onnx", onnx_change(change))
    assert bad.failed == {"codes", "graph"}
    assert bad.says("encoder.layer.0.output.LayerNorm.bias", "values differ")
