"""The devices that tests run on besides the processor: a pretended GPU, and CUDA where it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from epmq_export.tensors.packed import PackedTensor
from tests.tiny.pretended_cuda import CUDA, PretendedCuda

DEVICES = ["pretended", pytest.param("cuda", marks=pytest.mark.gpu)]


@contextmanager
def a_gpu(name: str) -> Iterator[torch.device]:
    """Yield the device of that name."""
    if name == "cuda":
        yield CUDA
    else:
        with PretendedCuda():
            yield CUDA


def equal_codes(one: Any, other: Any) -> float:
    """Return the share of codes that are equal in two sets of tensors, 0..1."""
    pairs = [
        (value.codes, other[name].codes) for name, value in one.items() if isinstance(value, PackedTensor)
    ]
    equal = sum(int((left == right).sum()) for left, right in pairs)
    return equal / max(sum(left.numel() for left, _ in pairs), 1)


def on_the_processor(value: PackedTensor | Tensor) -> bool:
    parts = (value.codes, *value.stored.values()) if isinstance(value, PackedTensor) else (value,)
    return all(part.device.type == "cpu" for part in parts)
