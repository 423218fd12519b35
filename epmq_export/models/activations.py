"""Calibration activations: on the GPU that computed them while it has room, in memory up to a bound, and on
disk beyond it, so that the memory of a run is known beforehand.
"""

from pathlib import Path
from types import TracebackType

import torch
from safetensors.torch import load_file
from torch import Tensor

from epmq_export.files.scratch import Scratch
from epmq_export.tensors.safetensors_file import write_safetensors

Key = tuple[str | int, ...]


# The share of a GPU's free memory that activations may take. The rest is for a block and its statistics.
SHARE = 4


def room_on(device: torch.device) -> int:
    """Return the bytes that activations may take on a device beside the memory of the process: 0 on the
    CPU.
    """
    if device.type != "cuda":
        return 0
    # What torch has set aside and does not use is free, too.
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return (torch.cuda.mem_get_info(device)[0] + unused) // SHARE


class Activations:
    """Tensors by key. It is used as a context: leaving it removes what was spilled."""

    def __init__(self, bound: int, room: int = 0) -> None:
        """Hold at most `room` bytes of a GPU's tensors there, and at most `bound` bytes in memory."""
        self.bound, self.room = bound, room
        self.held = self.held_there = 0
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
        if value.device.type != "cpu":
            if self.held_there + value.nbytes <= self.room:
                self._memory[key] = value
                self.held_there += value.nbytes
                return
            value = value.cpu()
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
        there = value.device.type != "cpu" and self.held_there + value.nbytes <= self.room // 2
        if there or self.held + value.nbytes <= self.bound // 2:
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
            value = self._memory.pop(key)
            if value.device.type != "cpu":
                self.held_there -= value.nbytes
            else:
                self.held -= value.nbytes
        elif self._folder is not None:
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: Key) -> Path:
        if self._folder is None:
            self._folder = Scratch("activations")
        return self._folder.path / ("-".join(map(str, key)).replace("/", "_") + ".safetensors")
