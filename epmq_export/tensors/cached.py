"""A source of tensors that is read more than once but computed once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from epmq_export.files.scratch import Scratch
from epmq_export.tensors.safetensors_file import SafetensorsFile, write_safetensors
from epmq_export.tensors.source import TypedSource


class Kept:
    """A source that computes each tensor when it is first loaded and then keeps it in a temporary file, so
    that memory holds one tensor at a time.

    The files go with the object, or at the interpreter's exit. `load` raises OutputError where the disk does
    not take them.
    """

    def __init__(self, source: TypedSource) -> None:
        self._source = source
        self._files: dict[str, SafetensorsFile] = {}
        self._folder: Scratch | None = None

    def names(self) -> Sequence[str]:
        return self._source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._source.dtype(name)

    def load(self, name: str) -> Tensor:
        if name not in self._files:
            if self._folder is None:
                self._folder = Scratch("merge")
            path = self._folder.path / f"{len(self._files)}.safetensors"
            write_safetensors(path, {name: self._source.load(name).contiguous()})
            self._files[name] = SafetensorsFile(path)
        return self._files[name].load(name)
