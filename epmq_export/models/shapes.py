"""Modules of shapes alone, into which a checkpoint's tensors are put later."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Let tensors and modules that are made in this context have no data. Modules set none of their first
    values, which would be computed at length and go nowhere.
    """
    with torch.device("meta"), _Unset():
        yield


class _Unset(TorchFunctionMode):
    """It leaves tensors as they are where a module would set them."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        arguments: Sequence[Any] = (),
        named: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        named = named or {}
        if function in _SETTERS:
            return arguments[0] if arguments else named["tensor"]
        return function(*arguments, **named)


_SETTERS = frozenset(
    [
        Tensor.fill_,
        Tensor.normal_,
        Tensor.uniform_,
        Tensor.zero_,
        nn.init.kaiming_uniform_,
        nn.init.normal_,
        nn.init.uniform_,
    ]
)
