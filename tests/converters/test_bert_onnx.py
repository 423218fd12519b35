"""BERT as the module that is exported to ONNX."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from formats.onnx.spec import specs_of
from tests.tiny.onnx_encoders import Written, reference, small, wide
from tests.tiny.onnx_parts import run_parts

TEXTS = ("the fox", "more words 1, 2, 3?", "x")


@pytest.mark.parametrize("model", [small, wide])
@torch.no_grad()
def test_module_computes_what_the_blocks_compute(model: Callable[[], Written]) -> None:
    written = model()
    spec = specs_of(written.family)["model"]
    (batch,) = written.family.batches(TEXTS, 8)
    values = run_parts(spec, written.packed, batch)
    hidden, output = values["last_hidden_state"], values["sentence_embedding"]
    assert hidden.shape == (*batch["input_ids"].shape, written.family.config.hidden_size)
    np.testing.assert_allclose(output.numpy(), reference(written, TEXTS), rtol=0, atol=1e-6)


def test_parts_have_all_tensors_under_canonical_names() -> None:
    written = small()
    assert sorted(specs_of(written.family)["model"].tensors()) == written.packed.names()


def test_inputs_and_outputs() -> None:
    spec = specs_of(small().family)["model"]
    assert list(spec.inputs) == ["input_ids", "attention_mask", "token_type_ids"]
    assert list(spec.outputs) == ["last_hidden_state", "sentence_embedding"]
    assert all(axes == {0: "batch", 1: "sequence"} for axes in spec.inputs.values())
    assert all(value.dtype == torch.int64 and min(value.shape) > 1 for value in spec.example.values())
