"""The kinds of fields that ggml's blocks consist of: which bits hold what, both ways. `types.TYPES` says
which fields a type's block has.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Numbers = dict[str, Tensor]
"""Of n blocks, by part: float16 [n, 1]; codes and small integers as uint8 [n, count], codes from 0 on."""


class Field(Protocol):
    @property
    def size(self) -> int:
        """Bytes that it takes in a block."""
        ...

    def put(self, numbers: Numbers) -> Tensor:
        """Return the bytes of these numbers, uint8 [n, size]."""
        ...

    def take(self, content: Tensor, numbers: Numbers) -> None:
        """Add what the bytes, uint8 [n, size], say to the numbers, all 0 at first."""
        ...


@dataclass(frozen=True)
class Half:
    """A float16."""

    part: str
    size: int = 2

    def put(self, numbers: Numbers) -> Tensor:
        return numbers[self.part].contiguous().view(torch.uint8)

    def take(self, content: Tensor, numbers: Numbers) -> None:
        numbers[self.part] = content.contiguous().view(torch.float16)


@dataclass(frozen=True)
class Bits:
    """Some bits of each integer. A byte's lowest bits are of one integer, the next are of the one `run`
    places later, and so on.
    """

    part: str
    size: int
    bits: int
    run: int
    shift: int = 0
    """The lowest of these bits in the integer."""

    def put(self, numbers: Numbers) -> Tensor:
        wanted = (numbers[self.part] >> self.shift) & (2**self.bits - 1)
        content = torch.zeros(len(wanted), self.size // self.run, self.run, dtype=torch.uint8)
        for place, each in enumerate(wanted.reshape(len(wanted), -1, 8 // self.bits, self.run).unbind(2)):
            content |= each << (place * self.bits)
        return content.reshape(len(wanted), self.size)

    def take(self, content: Tensor, numbers: Numbers) -> None:
        rows = content.reshape(len(content), -1, 1, self.run)
        places = torch.arange(0, 8, self.bits, dtype=torch.uint8)[:, None]
        found = ((rows >> places) & (2**self.bits - 1)).reshape(len(content), -1)
        numbers[self.part] = numbers[self.part] | (found << self.shift)


@dataclass(frozen=True)
class Signed:
    """Integers of 8 bits in two's complement, which are held with 128 added."""

    part: str
    size: int

    def put(self, numbers: Numbers) -> Tensor:
        return numbers[self.part] ^ 0x80

    def take(self, content: Tensor, numbers: Numbers) -> None:
        numbers[self.part] = content ^ 0x80


@dataclass(frozen=True)
class Shares:
    """Two times eight integers of 6 bits in 12 bytes: the first four of each in the low bits of bytes 0 to 3
    and 4 to 7, the high two bits of the last four above them, and their low four bits in bytes 8 to 11, the
    second kind's above the first's.
    """

    first: str
    second: str
    size: int = 12

    def put(self, numbers: Numbers) -> Tensor:
        (one, one_last), (two, two_last) = numbers[self.first].chunk(2, 1), numbers[self.second].chunk(2, 1)
        return torch.cat(
            (one | (one_last >> 4 << 6), two | (two_last >> 4 << 6), (one_last & 15) | (two_last << 4)), 1
        )

    def take(self, content: Tensor, numbers: Numbers) -> None:
        one, two, last = content.chunk(3, 1)
        numbers[self.first] = torch.cat((one & 63, (last & 15) | (one >> 6 << 4)), 1)
        numbers[self.second] = torch.cat((two & 63, (last >> 4) | (two >> 6 << 4)), 1)


@dataclass(frozen=True)
class Pairs:
    """Two kinds of integers of 4 bits, one of each a byte, the second kind's in the high bits."""

    first: str
    second: str
    size: int

    def put(self, numbers: Numbers) -> Tensor:
        return numbers[self.first] | (numbers[self.second] << 4)

    def take(self, content: Tensor, numbers: Numbers) -> None:
        numbers[self.first], numbers[self.second] = content & 15, content >> 4
