"""The arithmetic of products: float32 whole, and the same at every run; bfloat16 where it is fast.

PyTorch may shorten the factors of float32 products: convolutions on a GPU do by default (TF32, 10 bits of
mantissa), and all products where a program has asked for it. The error of 4 bits is measured beside them, so
here they are whole.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


def fast_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 in hardware. That takes half the time or less, and its
    error is far below that of 4 bits. Elsewhere it takes more time than float32.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # oneDNN supports bfloat16 on any AVX-512 machine, and emulates it there.
    return device.type == "cpu" and (
        torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )


class AttentionInFloat32(TorchFunctionMode):
    """A context in which attention is computed in float32, whatever autocast says. Gradients of PyTorch's
    attention in bfloat16 take a processor two to fifteen times as long, and are its only slow product.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's own
        given = dict(kwargs or {})
        if function is not scaled_dot_product_attention:
            return function(*args, **given)
        with torch.autocast("cpu", enabled=False):
            return function(*map(_widened, args), **{key: _widened(value) for key, value in given.items()})


def _widened(value: object) -> object:
    """Return a tensor of floats in float32, and everything else as it is."""
    return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@dataclass(frozen=True)
class _Setting:
    """One of PyTorch's settings, and what it is to be."""

    read: Callable[[], Any]
    write: Callable[[Any], None]
    value: Any


@contextmanager
def whole_float32() -> Iterator[None]:
    """Compute float32 products in float32, on the processor and on a GPU, and convolutions by the same
    algorithm at every run. What the program had set is set again afterwards.
    """
    settings = _settings()
    before = [(setting, _read(setting)) for setting in settings]
    try:
        for setting in settings:
            _write(setting, setting.value)
        yield
    finally:
        for setting, value in before:
            if value is not None:
                _write(setting, value)


def _settings() -> list[_Setting]:
    """Return the settings. PyTorch 2.9 gave those of products new names and refuses products where the old
    ones and the new ones contradict each other, so that both are set, the old ones first.
    """
    backends: Any = torch.backends
    found = [
        _Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        _attribute(backends.cudnn, "allow_tf32", False),
    ]
    if hasattr(backends, "fp32_precision"):
        places = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
        found += [_attribute(place, "fp32_precision", "ieee") for place in places]
    found.append(_attribute(backends.cudnn, "benchmark", False))
    found.append(_attribute(backends.cudnn, "deterministic", True))
    return found


def _attribute(where: Any, name: str, value: Any) -> _Setting:  # noqa: ANN401
    return _Setting(lambda: getattr(where, name), lambda new: setattr(where, name, new), value)


def _read(setting: _Setting) -> Any:  # noqa: ANN401
    """Return the setting's value, or None where the program's settings contradict it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Some versions warn whenever an old name is used.
        try:
            return setting.read()
        except RuntimeError:
            return None


def _write(setting: _Setting, value: Any) -> None:  # noqa: ANN401
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setting.write(value)
