"""A device named cuda:0 on a machine without one. Its tensors compute on the processor, and mixing them with
the processor's own fails as it does on a GPU. What would make the processor wait for the GPU is counted.

Gradients are not computed on it: PyTorch asks for the real device there.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda:0")
_aten = torch.ops.aten
# These give the processor numbers, so that it waits until the GPU has them.
_WAITS = (
    _aten._local_scalar_dense.default,
    _aten.equal.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten._linalg_check_errors.default,
)
# These take tensors of both devices.
_MIXES = (_aten.copy_.default, _aten._to_copy.default)
_INDEXES = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)
# Methods that ask for the real device before they come to their operation.
_NUMBERS: Mapping[Any, Callable[[Any], Any]] = {
    Tensor.__float__: float,
    Tensor.__int__: int,
    Tensor.__bool__: bool,
    Tensor.__index__: int,
    Tensor.item: lambda number: number,
}
_OPERATIONS: Mapping[Any, Callable[..., Any]] = {
    Tensor.__getitem__: lambda value, index: _read(value, index),
    Tensor.__setitem__: lambda value, index, new: _write(value, index, new),
    Tensor.__invert__: _aten.bitwise_not,
    Tensor.nonzero: _aten.nonzero,
    Tensor.copy_: _aten.copy_,
    Tensor.cpu: lambda value: value.to("cpu"),
    Tensor.contiguous: lambda value: (
        value if value.is_contiguous() else _aten.clone(value, memory_format=torch.contiguous_format)
    ),
}


class PretendedCuda(TorchDispatchMode):
    """The device, as a context, with `free` bytes of memory for activations."""

    def __init__(self, free: int = 1 << 40) -> None:
        super().__init__()
        self.free = free
        self.waits: Counter[str] = Counter()
        self._within = ExitStack()

    def __enter__(self) -> Self:
        self._within.enter_context(torch.no_grad())
        self._within.enter_context(_Methods())
        generator = torch.Generator
        stand_ins: Mapping[str, Callable[..., Any]] = {
            "cuda.mem_get_info": lambda device: (self.free, self.free),
            "cuda.is_bf16_supported": lambda **_: False,
            "cuda.synchronize": lambda device: None,
            "cuda.get_device_name": lambda device: "a pretended GPU",
            "Generator": lambda device=None: generator(),
        }
        for name, stand_in in stand_ins.items():
            self._within.enter_context(mock.patch(f"torch.{name}", stand_in))
        if not torch.cuda.is_available():  # Naming the device starts CUDA, which is not there.
            self._within.enter_context(mock.patch("torch.cuda._lazy_init", lambda: None))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._within.close()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        held = [*_tensors((args, *given.values()))]
        ours = [value for value in held if isinstance(value, _OnCuda)]
        there = bool(ours) if func not in _MIXES else isinstance(args[0], _OnCuda)
        if given.get("device") is not None:
            there = torch.device(given["device"]).type == "cuda"
            given["device"] = torch.device("cpu")
        if ours and len(ours) < len(held) and func not in _MIXES:
            _require_one_device(func, args, given)
        by_mask = func in _INDEXES and any(value.dtype == torch.bool for value in _tensors(args[1]))
        if ours and (func in _WAITS or by_mask or (func in _MIXES and not there)):
            self.waits[str(func)] += 1
        known = {id(value.inner): value for value in ours}
        given = {name: _mapped(_inner, value) for name, value in given.items()}
        result = func(*_mapped(_inner, args), **given)
        if not there:
            return result
        # What an operation gives back as it got it, in place, is the same tensor again.
        return _mapped(lambda value: known[id(value)] if id(value) in known else _OnCuda(value), result)


class _OnCuda(Tensor):
    """A tensor that says it is on cuda:0."""

    inner: Tensor

    @staticmethod
    def __new__(cls: type["_OnCuda"], inner: Tensor) -> "_OnCuda":
        made: _OnCuda = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=CUDA,
        )
        made.inner = inner
        return made

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: "_OnCuda") -> None:
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.inner = value.inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func}: a tensor of the pretended device is used outside of it")


class _Methods(TorchFunctionMode):
    """Do by operations alone what PyTorch without CUDA refuses to do for such tensors, and make them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if args and isinstance(args[0], _OnCuda):
            if func in _NUMBERS:
                return _NUMBERS[func](_aten._local_scalar_dense(args[0]))
            if func in _OPERATIONS:
                return _OPERATIONS[func](*args, **given)
        asked = given.get("device")
        if asked is None or torch.device(asked).type != "cuda" or func is Tensor.to:
            return func(*args, **given)
        return func(*args, **{**given, "device": "cpu"}).to(CUDA)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of an argument: it is one, or a sequence of some, or has none."""
    if isinstance(value, Tensor):
        yield value
    elif type(value) in (tuple, list):
        for each in value:
            yield from _tensors(each)


def _mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Return an argument with another tensor for each of its own."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in (tuple, list):
        return type(value)([_mapped(function, each) for each in value])
    return value


def _inner(value: Tensor) -> Tensor:
    return value.inner if isinstance(value, _OnCuda) else value


def _require_one_device(func: Callable[..., Any], args: tuple[Any, ...], given: Mapping[str, Any]) -> None:
    """Fail where a tensor of the processor that is no single number meets the GPU's. Indices may."""
    rest = (args[0], *args[2:]) if func in _INDEXES else args
    for value in _tensors((rest, *given.values())):
        if not isinstance(value, _OnCuda) and value.ndim:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
                f"cpu! ({func}, shape {list(value.shape)})"
            )


def _read(value: Tensor, index: Any) -> Tensor:
    place, chosen = _view(value, index)
    return _aten.index(place, chosen) if chosen else place


def _write(value: Tensor, index: Any, new: Any) -> None:
    place, chosen = _view(value, index)
    new = new if isinstance(new, Tensor) else torch.tensor(new, dtype=value.dtype)
    if chosen:
        _aten.index_put_(place, chosen, new)
    else:
        _aten.copy_(place, new)


def _view(value: Tensor, index: Any) -> tuple[Tensor, list[Tensor | None]]:
    """Return the part that slices and numbers choose, and the tensors that choose from its dimensions."""
    parts = list(index) if isinstance(index, tuple) else [index]
    for i, part in enumerate(parts):
        if part is Ellipsis:
            parts[i : i + 1] = [slice(None)] * (value.ndim + 1 - sum(each is not None for each in parts))
            break
    chosen: list[Tensor | None] = []
    for part in parts:
        if isinstance(part, int):
            value = value.select(len(chosen), part)
            continue
        if part is None:
            value = value.unsqueeze(len(chosen))
        elif isinstance(part, slice):
            value = _aten.slice(value, len(chosen), part.start, part.stop, part.step or 1)
        chosen.append(
            torch.tensor(part) if isinstance(part, list) else part if isinstance(part, Tensor) else None
        )
    return value, chosen if any(part is not None for part in chosen) else []
