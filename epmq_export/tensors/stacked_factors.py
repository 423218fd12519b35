"""The factors of an adapter on the matrices of a mixture's experts, as peft has them since transformers holds
those of all experts in one tensor [experts, out, in] (stacked.py).

    MODULE.experts.lora_A.weight   [experts * r, in], those of an expert one under the other
    MODULE.experts.lora_B.weight   [out, r * experts], the experts' columns side by side, r times
    MODULE.experts.base_layer...   of another one of these tensors, where several are adapted

Which tensor factors are of no name says, but their shapes do.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.tensors.source import RowReader, TypedSource, row_reader

_BASE_LAYER = ".base_layer"
_A, _B = ".lora_A", ".lora_B"
_MATRIX = re.compile(r"(.+)\.\d+\.(\w+)")
_FACTOR = re.compile(r"(\.lora_[AB])(\.\w+)?\.weight$")


class _Stack(NamedTuple):
    """A tensor that holds matrices of all experts."""

    name: str
    """The last part of its name: `gate_up_proj`."""

    parts: Sequence[str]
    """The matrices of an expert in it."""

    experts: int
    out: int
    """The outputs of an expert's matrices together."""

    into: int


class _Part(NamedTuple):
    """A factor of one matrix of an expert, in a stored one."""

    stored: str
    expert: int
    experts: int
    rank: int
    rows: slice
    """The rows of a B that are the matrix's."""

    is_b: bool


class UnstackedFactors:
    """A source with the factors of each matrix of an expert as tensors of their own; all else as it is."""

    def __init__(
        self, source: TypedSource, base: TypedSource, stacks: Mapping[str, Sequence[str]], where: str
    ) -> None:
        """Take the names of an expert's matrices by the ending of the name of the tensor that holds them; the
        base has each of them apart.

        Raises InputError, with `where`, for factors of none of these tensors. Only headers are read.
        """
        self._source, self._parts = source, dict[str, _Part]()
        self._trained = dict[str, str]()
        places = {end.rpartition(".")[0] for end in stacks}
        known = [stack for end, parts in stacks.items() for stack in _stacks(base, end, parts)]
        modules: dict[str, dict[str, str]] = {}
        for name in source.names():
            found = _FACTOR.search(name)
            module = name[: found.start()] if found else ""
            if found and module.replace(_BASE_LAYER, "").endswith(tuple(places)):
                modules.setdefault(module, {})[found[1]] = name
        for module, names in modules.items():
            self._take(module, names, known, where)
        taken = {part.stored for part in self._parts.values()}
        self._names = [name for name in source.names() if name not in taken]

    def _take(self, module: str, names: Mapping[str, str], known: Sequence[_Stack], where: str) -> None:
        """Take the factors of a module apart."""
        if names.keys() != {_A, _B}:
            raise InputError(
                f"{where}: module {module} has only {', '.join(names.values())}, expected A and B"
            )
        a, b = (self._source.shape(names[key]) for key in (_A, _B))
        fitting = [
            stack
            for stack in known
            if len(a) == len(b) == 2 and (a[1], b[0]) == (stack.into, stack.out) and a[0] == b[1]
            if a[0] and a[0] % stack.experts == 0
        ]
        if not fitting:
            shapes = ", ".join(f"{each.name} [{each.experts}, {each.out}, {each.into}]" for each in known)
            raise InputError(
                f"{where}: the factors of {module} are of shapes {a} and {b}, expected those of a rank for "
                f"each expert, of one of the base's tensors: {shapes or 'it has none'}"
            )
        stack = fitting[0]
        experts = module.replace(_BASE_LAYER, "")
        self._trained |= dict.fromkeys(stack.parts, stack.name)
        rank, rows_of = a[0] // stack.experts, stack.out // len(stack.parts)
        for expert in range(stack.experts):
            for at, part in enumerate(stack.parts):
                own = f"{experts}.{expert}.{part}"
                rows = slice(at * rows_of, (at + 1) * rows_of)
                for key in (_A, _B):
                    place = _Part(names[key], expert, stack.experts, rank, rows, key == _B)
                    self._parts[f"{own}{key}.weight"] = place

    def trained(self, module: str) -> str:
        """Return the name by which a module was adapted: that of the tensor that held an expert's matrix,
        `mlp.experts.gate_up_proj` for `mlp.experts.3.gate_proj`.
        """
        found = _MATRIX.fullmatch(module)
        stack = None if found is None else self._trained.get(found[2])
        return module if found is None or stack is None else f"{found[1]}.{stack}"

    def names(self) -> list[str]:
        return [*self._names, *self._parts]

    def shape(self, name: str) -> tuple[int, ...]:
        if (part := self._parts.get(name)) is None:
            return self._source.shape(name)
        if part.is_b:
            return part.rows.stop - part.rows.start, part.rank
        return part.rank, self._source.shape(part.stored)[1]

    def dtype(self, name: str) -> torch.dtype:
        part = self._parts.get(name)
        return self._source.dtype(name if part is None else part.stored)

    def load(self, name: str) -> Tensor:
        if (part := self._parts.get(name)) is None:
            return self._source.load(name)
        whole = self._source.load(part.stored)
        if part.is_b:
            return whole[part.rows].reshape(-1, part.rank, part.experts)[:, :, part.expert].clone()
        return whole[part.expert * part.rank : (part.expert + 1) * part.rank].clone()

    def row_reader(self, name: str) -> RowReader | None:
        return None if name in self._parts else row_reader(self._source, name)


def _stacks(base: TypedSource, end: str, parts: Sequence[str]) -> list[_Stack]:
    """Return the tensor of such an ending that would hold a base's matrices; none where it has none."""
    place, _, name = end.rpartition(".")
    matrix = re.compile(rf"{re.escape(place)}\.(\d+)\.{re.escape(parts[0])}\.weight$")
    numbers = {int(found[1]): each for each in base.names() if (found := matrix.search(each))}
    if not numbers:
        return []
    out, into = base.shape(next(iter(numbers.values())))
    return [_Stack(name, parts, max(numbers) + 1, out * len(parts), into)]
