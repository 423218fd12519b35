"""The kinds of fields that ggml's blocks consist of: which bits hold which number, both ways. `types.TYPES`
says which fields the block of a type has.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Numbers = dict[str, Tensor]
"""The numbers of n blocks, by part: float16 [n, 1], or codes and small integers as uint8 [n, count]. Codes
count from 0.
"""


class Field(Protocol):
    """A part of a block."""

    @property
    def size(self) -> int:
        """Return the bytes that it takes in a block."""
        ...

    def put(self, numbers: Numbers) -> Tensor:
        """Return the bytes of these numbers, uint8 [n, size]."""
        ...

    def take(self, content: Tensor, numbers: Numbers) -> None:
        """Add the numbers in the bytes, uint8 [n, size], to `numbers`, which are all 0 at first."""
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
    """Some bits of each integer. The lowest bits of a byte are of one integer, the next ones of the integer
    `run` places later, and so on.
    """

    part: str
    size: int
    bits: int
    run: int
    shift: int = 0
    """The place of the lowest of these bits in the integer."""

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
    """Integers of 8 bits in two's complement. In memory they have 128 added."""

    part: str
    size: int

    def put(self, numbers: Numbers) -> Tensor:
        return numbers[self.part] ^ 0x80

    def take(self, content: Tensor, numbers: Numbers) -> None:
        numbers[self.part] = content ^ 0x80


@dataclass(frozen=True)
class Shares:
    """Two kinds of eight integers of 6 bits each, in 12 bytes.

    The first four of each kind are in the low bits of bytes 0 to 3 and 4 to 7. The high two bits of the last
    four are above them. The low four bits of the last four are in bytes 8 to 11, those of the second kind
    above those of the first.
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
    """Two kinds of integers of 4 bits. A byte has one of each, that of the second kind in the high bits."""

    first: str
    second: str
    size: int

    def put(self, numbers: Numbers) -> Tensor:
        return numbers[self.first] | (numbers[self.second] << 4)

    def take(self, content: Tensor, numbers: Numbers) -> None:
        numbers[self.first], numbers[self.second] = content & 15, content >> 4
