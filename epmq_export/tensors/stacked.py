"""The matrices of a mixture's experts that a checkpoint stores as one tensor, as transformers has them in
memory: those of an expert one under the other, the experts' one behind the other.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.tensors.source import RowReader, TypedSource, row_reader


class _Part(NamedTuple):
    """The place of a matrix in a stored tensor."""

    stored: str
    expert: int
    start: int
    stop: int


class Unstacked:
    """A source with each of these matrices as a tensor of its own; all else as it is."""

    def __init__(self, source: TypedSource, stacks: Mapping[str, Sequence[str]], where: str) -> None:
        """Take the names of an expert's matrices by the ending of the name of the tensor that holds them.

        Raises InputError, with `where`, for a tensor that cannot hold them, and for one that is stored so and
        apart, too. Only headers are read.
        """
        self._source, self._parts = source, dict[str, _Part]()
        stored = {name: end for name in source.names() for end in stacks if name.endswith(end)}
        self._names = [name for name in source.names() if name not in stored]
        for name, end in stored.items():
            shape, parts = source.shape(name), stacks[end]
            if len(shape) != 3 or shape[1] % len(parts):
                rows = f"a multiple of {len(parts)}" if len(parts) > 1 else "rows"
                raise InputError(
                    f"{where}: tensor {name} has shape {list(shape)}, expected [experts, {rows}, width]"
                )
            rows_of = shape[1] // len(parts)
            before = name.removesuffix(end) + end.rpartition(".")[0]
            for expert in range(shape[0]):
                for at, part in enumerate(parts):
                    place = _Part(name, expert, at * rows_of, (at + 1) * rows_of)
                    self._parts[f"{before}.{expert}.{part}.weight"] = place
        if both := sorted(self._parts.keys() & set(self._names)):
            raise InputError(
                f"{where}: tensor {both[0]} is stored, and as a part of {self._parts[both[0]].stored}, too; "
                "expected one of them"
            )

    def names(self) -> list[str]:
        return [*self._names, *self._parts]

    def shape(self, name: str) -> tuple[int, ...]:
        if (part := self._parts.get(name)) is None:
            return self._source.shape(name)
        return part.stop - part.start, self._source.shape(part.stored)[2]

    def dtype(self, name: str) -> torch.dtype:
        part = self._parts.get(name)
        return self._source.dtype(name if part is None else part.stored)

    def load(self, name: str) -> Tensor:
        if (part := self._parts.get(name)) is None:
            return self._source.load(name)
        return self._rows(part, 0, part.stop - part.start).clone()

    def row_reader(self, name: str) -> RowReader | None:
        if (part := self._parts.get(name)) is None:
            return row_reader(self._source, name)
        return lambda start, stop: self._rows(part, start, stop)

    def _rows(self, part: _Part, start: int, stop: int) -> Tensor:
        """Return some rows of a matrix; the other experts' are not read where the source reads rows."""
        reader = row_reader(self._source, part.stored)
        if reader is None:
            whole = self._source.load(part.stored)[part.expert]
        else:
            whole = reader(part.expert, part.expert + 1)[0]
        return whole[part.start : part.stop][start:stop]
