"""The norm of language models, beside the library's own classes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from epmq_export.models.rms_norm import RmsNorm


@pytest.mark.parametrize(("theirs", "offset"), [(LlamaRMSNorm, 0.0), (Gemma3RMSNorm, 1.0)])
def test_it_computes_what_the_library_does(theirs: type[torch.nn.Module], offset: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, value = torch.randn(16, generator=generator), torch.randn(3, 5, 16, generator=generator)
    norm, other = RmsNorm(16, 1e-5, offset), theirs(16, eps=1e-5)
    for module in (norm, other):
        module.load_state_dict({"weight": weight})
    torch.testing.assert_close(norm(value), other(value), rtol=1e-6, atol=1e-6)


@given(st.floats(-4, 4, width=32))
def test_a_whole_weight_survives_its_offset(value: float) -> None:
    for offset in (0.0, 1.0):
        norm, weight = RmsNorm(1, 1e-5, offset), torch.tensor([value])
        whole = norm.whole(weight)
        assert torch.equal(whole + offset - offset, whole)
        torch.testing.assert_close(whole, weight, rtol=0, atol=2e-7 * (1 + abs(value)))
