"""Q2_0 in both formats: the types that hold it, and that both runtimes compute it."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto

from converters.from_gguf.checkpoint import GgufBase
from epmq_export.models import reference
from epmq_export.models.samples import Passage, Sample
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.verification.checks import check_codes, check_metadata
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from formats.gguf.format import Gguf
from formats.onnx.format import OnnxQdq
from tests.tiny import decoder
from tests.tiny.decoder_files import pack
from tests.tiny.onnx_encoders import notes, small, small_on

SAMPLES: list[Sample] = ["the cat sat on", Passage("it is", " good , very good !"), "a"]


def test_both_runtimes_compute_it(tmp_path: Path) -> None:
    """Whatever the number of outputs: a head of 322 tokens is one that ONNX Runtime misreads in UINT2."""
    source = decoder.write(tmp_path / "model", "qwen2", vocab_size=322, intermediate_size=128)
    held, family = pack(source, ("Q2_0",), "Q2_0")
    assert {grid.name for grid in held.grids.values()} == {"Q2_0"}
    expected = reference.outputs(family, held, SAMPLES, torch.device("cpu"))
    for format, runtime, near in ((Gguf(), LlamaCpp(), 1e-3), (OnnxQdq(), OnnxRuntime(), 1e-5)):
        (folder := tmp_path / format.name).mkdir()
        path = format.write(held, family, folder)
        model = format.open(path, family)
        assert not check_metadata(model, held).broken
        assert not check_codes(model, held, format.left_out(family), [runtime]).broken
        for exact, bound in ((True, near), (False, 0.1)):
            found = runtime.outputs(model.exact(path, tmp_path) if exact else path, SAMPLES, exact=exact)
            assert np.linalg.norm(found - expected) <= bound * np.linalg.norm(expected)
    base = open_checkpoint(Gguf().find(tmp_path / "gguf", family), open_gguf=GgufBase)
    for name in held.grids:
        assert torch.equal(base.load(name), held.load(name)), name
    assert notes(path, family) == {"linears": 15, "fused": 15}  # With the head.
    types = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert types["lm_head.weight.codes"] == TensorProto.UINT4
    assert types["model.layers.0.mlp.up_proj.weight.codes"] == TensorProto.UINT2
    assert types["model.embed_tokens.weight.codes"] == TensorProto.UINT8


def test_operators_are_in_its_opset_what_they_are_in_the_traced_one() -> None:
    """But for the types that they take, and for attributes that a node leaves at their defaults."""
    old, new = onnx.load(small().path), onnx.load(small_on("Q2_0").path)
    assert [model.opset_import[0].version for model in (old, new)] == [21, 25]
    onnx.checker.check_model(new, full_check=True)
    for operator in sorted({node.op_type for node in new.graph.node}):
        before, after = (onnx.defs.get_schema(operator, version, "") for version in (21, 25))
        added = after.attributes.keys() - before.attributes.keys()
        assert all(not after.attributes[name].required for name in added), operator
        assert [item.name for item in before.inputs] == [item.name for item in after.inputs], operator
        for name, attribute in before.attributes.items():
            assert after.attributes[name].default_value == attribute.default_value, operator
