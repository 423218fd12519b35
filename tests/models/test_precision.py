"""Products of float32 are whole within the context, and the program's own settings come back."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from epmq_export.models.precision import AttentionInFloat32, _read, _settings, whole_float32


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def now() -> list[object]:
    return [_read(setting) for setting in _settings()]


@pytest.mark.parametrize("asked", ["highest", "high", "medium"])
def test_what_a_program_has_set_comes_back(asked: str) -> None:
    torch.set_float32_matmul_precision(asked)
    before = now()
    with whole_float32():
        assert now() == [setting.value for setting in _settings()]
    assert now() == before and torch.get_float32_matmul_precision() == asked
    with pytest.raises(KeyError), whole_float32():
        raise KeyError
    assert now() == before


@pytest.mark.skipif(
    not hasattr(torch.backends, "fp32_precision"), reason="this PyTorch knows the old names alone"
)
def test_what_a_program_has_set_by_the_new_names_comes_back() -> None:
    """Alone, they contradict the old ones, which nobody can read then."""
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with whole_float32():
            assert matmul.fp32_precision == "ieee" and torch.get_float32_matmul_precision() == "highest"
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_the_factors_of_a_product_are_not_shortened() -> None:
    """Where the processor multiplies bfloat16, "medium" would."""
    torch.manual_seed(0)
    left, right = torch.randn(256, 256), torch.randn(256, 256)
    torch.set_float32_matmul_precision("medium")
    with whole_float32():
        found = left @ right
    assert (found - (left.double() @ right.double()).float()).abs().max() < 1e-3


@pytest.mark.gpu
def test_neither_are_those_on_a_gpu() -> None:
    torch.manual_seed(0)
    left, right = torch.randn(512, 512), torch.randn(512, 512)
    image, filters = torch.randn(2, 3, 64, 64), torch.randn(256, 3, 16, 16)
    torch.set_float32_matmul_precision("high")
    with whole_float32():
        product = (left.cuda() @ right.cuda()).cpu()
        convolved = torch.conv2d(image.cuda(), filters.cuda(), stride=16).cpu()
    assert (product - (left.double() @ right.double()).float()).abs().max() < 1e-3
    expected = torch.conv2d(image.double(), filters.double(), stride=16).float()
    assert (convolved - expected).abs().max() < 1e-3


def test_attention_is_float32_where_products_are_bfloat16() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 8) for _ in range(3))
    linear, visible = torch.nn.Linear(8, 8), torch.rand(2, 1, 5, 5) > 0.3
    with torch.autocast("cpu", torch.bfloat16), AttentionInFloat32():
        short = linear(query)
        found = scaled_dot_product_attention(short, key, value, attn_mask=visible)
    assert short.dtype == torch.bfloat16 and found.dtype == torch.float32
    assert torch.equal(found, scaled_dot_product_attention(short.float(), key, value, attn_mask=visible))
