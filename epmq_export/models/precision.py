"""The arithmetic of float32 products: whole, and the same at every run.

PyTorch may shorten the factors of float32 products: convolutions on a GPU do by default (TF32, 10 bits of
mantissa), and all products where a program has asked for it. The error of 4 bits is measured beside them, so
here they are whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def whole_float32() -> Iterator[None]:
    """Compute float32 products in float32, on the processor and on a GPU, and convolutions by the same
    algorithm at every run. What the program had set is set again afterwards.
    """
    settings = [*_settings(), (torch.backends.cudnn, "benchmark", False)]
    settings.append((torch.backends.cudnn, "deterministic", True))
    before = [(where, name, getattr(where, name)) for where, name, _ in settings]
    try:
        for where, name, value in settings:
            setattr(where, name, value)
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)


def _settings() -> list[tuple[Any, str, Any]]:
    """Return the objects, names and values that ask for whole products. From PyTorch 2.9 on they have one
    name, and reading the old ones fails where a program has set the new ones.
    """
    backends: Any = torch.backends
    if hasattr(backends, "fp32_precision"):
        places = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
        return [(place, "fp32_precision", "ieee") for place in places]
    return [(backends.cuda.matmul, "allow_tf32", False), (backends.cudnn, "allow_tf32", False)]
