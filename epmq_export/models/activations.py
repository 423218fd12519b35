"""Calibration activations, in memory up to a bound and on disk beyond it, so that the memory of a run is
known beforehand.
"""

from pathlib import Path
from types import TracebackType

from safetensors.torch import load_file
from torch import Tensor

from epmq_export.files.scratch import Scratch
from epmq_export.tensors.safetensors_file import write_safetensors

Key = tuple[str | int, ...]


class Activations:
    """Tensors by key. It is used as a context: leaving it removes what was spilled."""

    def __init__(self, bound: int) -> None:
        """Hold at most `bound` bytes of tensors in memory."""
        self.bound = bound
        self.held = 0
        self._memory: dict[Key, Tensor] = {}
        self._folder: Scratch | None = None

    def __enter__(self) -> "Activations":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._memory.clear()
        if self._folder is not None:
            self._folder.close()

    def put(self, key: Key, value: Tensor) -> None:
        """Keep a tensor, in place of the one that the key had."""
        self.drop(key)
        if self.held + value.nbytes <= self.bound:
            self._memory[key] = value
            self.held += value.nbytes
        else:
            write_safetensors(self._path(key), {"value": value.contiguous()})

    def offer(self, key: Key, value: Tensor) -> None:
        """Keep a tensor that can be computed again, in place of the one that the key had, if memory has room.
        Half of the bound is left for tensors that cannot.
        """
        self.drop(key)
        if self.held + value.nbytes <= self.bound // 2:
            self.put(key, value)

    def has(self, key: Key) -> bool:
        """Return whether the key has a tensor."""
        return key in self._memory or (self._folder is not None and self._path(key).exists())

    def move(self, old: Key, new: Key) -> None:
        """Give the tensor of `old` to `new`, in place of the one that `new` had."""
        self.drop(new)
        if old in self._memory:
            self._memory[new] = self._memory.pop(old)
        else:
            self._path(old).rename(self._path(new))

    def get(self, key: Key) -> Tensor:
        """Return the tensor of a key."""
        return self._memory[key] if key in self._memory else load_file(self._path(key))["value"]

    def drop(self, key: Key) -> None:
        """Forget the tensor of a key, if there is one."""
        if key in self._memory:
            self.held -= self._memory.pop(key).nbytes
        elif self._folder is not None:
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: Key) -> Path:
        if self._folder is None:
            self._folder = Scratch("activations")
        return self._folder.path / ("-".join(map(str, key)).replace("/", "_") + ".safetensors")
