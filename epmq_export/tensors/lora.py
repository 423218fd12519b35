"""A PEFT LoRA adapter on a base: W + scale * B @ A, computed in float32 when a tensor is asked for.

The files are those of `peft`: adapter_config.json, and adapter_model.safetensors with
`base_model.model.MODULE.lora_A.weight` [r, in], `.lora_B.weight` [out, r], `.lora_embedding_A` [r, rows] and
`.lora_embedding_B` [width, r] for embeddings, `.lora_B.bias` [out], and whole tensors (biases,
modules_to_save) that take the place of those of the base.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.tensors.adapter_place import place_of
from epmq_export.tensors.adapter_settings import AdapterSettings
from epmq_export.tensors.directory import ADAPTER_CONFIG, ADAPTER_PICKLE, ADAPTER_WEIGHTS, pickle_refusal
from epmq_export.tensors.fitted import with_own_head
from epmq_export.tensors.low_rank import Change, LowRank
from epmq_export.tensors.naming import Naming, unwrapped
from epmq_export.tensors.orientation import Orientation
from epmq_export.tensors.placement import Known, Shape
from epmq_export.tensors.safetensors_file import SafetensorsFile
from epmq_export.tensors.source import Renamed, RowReader, TypedSource, row_reader
from epmq_export.tensors.stacked import Unstacked
from epmq_export.tensors.stacked_factors import UnstackedFactors

_FACTORS = {
    ".lora_A.weight": ("a", ".weight"),
    ".lora_B.weight": ("b", ".weight"),
    ".lora_B.bias": ("shift", ".bias"),
    ".lora_embedding_A": ("embedding_a", ".weight"),
    ".lora_embedding_B": ("embedding_b", ".weight"),
}


# The name that peft gives an adapter in memory, and takes out of what it saves; a state dict that was saved
# without it has it.
_ADAPTER_NAME = re.compile(r"(\.(?:lora_(?:embedding_)?[AB]|modules_to_save))\.default(?=\.|$)")


def is_adapter(directory: Path) -> bool:
    """Return whether a directory holds a LoRA adapter, or what is left of one."""
    return any((directory / name).exists() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADAPTER_PICKLE))


@dataclass(frozen=True)
class _Delta:
    """The change of one tensor of the base: the keys of the factors in the adapter's file, by role, and the
    scale.
    """

    keys: Mapping[str, str]
    scale: float


class Lora:
    """The tensors of a base with the changes of an adapter. Changed tensors are float32, whatever the dtype
    of the base, so that nothing is rounded away.

    A head that the adapter parts from the embeddings that it was tied to is a tensor of its own. `left_out`
    are the adapter's tensors that the base has no place for, and that are of a head; `saved` are those that
    it has whole, under its own names.
    """

    def __init__(self, directory: Path, base: TypedSource, naming: Naming) -> None:
        if (directory / ADAPTER_PICKLE).exists() and not (directory / ADAPTER_WEIGHTS).exists():
            raise InputError(f"{directory}: {pickle_refusal(ADAPTER_PICKLE)}")
        self._settings = AdapterSettings(directory / ADAPTER_CONFIG)
        self._path, self._naming = directory / ADAPTER_WEIGHTS, naming
        self._file = self._apart(SafetensorsFile(self._path), base)
        self._base = with_own_head(base, naming)
        self._orientation = Orientation(self._base)
        factors, whole = self._sort()
        self.saved = Renamed(self._file, whole)
        self._deltas, self._whole, self.left_out = self._placed(factors, whole)
        self._tie(base)
        self._names = sorted({*self._base.names(), *self._whole})
        self.changed: frozenset[str] | None = frozenset({*self._deltas, *self._whole})

    def names(self) -> list[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file.shape(self._whole[name]) if name in self._whole else self._base.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        if name in self._deltas:
            return torch.float32
        return self._file.dtype(self._whole[name]) if name in self._whole else self._base.dtype(name)

    def load(self, name: str) -> Tensor:
        tensor = self._origin(name)
        return tensor.float() + self._change(name) if name in self._deltas else tensor

    def low_rank_change(self, name: str) -> Change | None:
        """Return what the adapter adds to a matrix as factors, of rank 0 where that is nothing."""
        shape = self.shape(name)
        if len(shape) != 2 or (name in self._whole and name not in self._deltas):
            return None
        left, right = torch.empty(shape[0], 0), torch.empty(0, shape[1])
        if name in self._deltas:
            part = self._parts(name)
            b, a = (part["b"], part["a"]) if "a" in part else (part["embedding_b"], part["embedding_a"])
            turned = "a" not in part or self._orientation.turned(name)
            left, right = (a.T, b.T) if turned else (b, a)
            left = self._deltas[name].scale * left
        return Change(lambda: self._origin(name), LowRank(left, right))

    def row_reader(self, name: str) -> RowReader | None:
        """Return the reader of a tensor's rows. The change of an adapted one is computed once and whole, to
        the bits that `load` gives.
        """
        whole = self._whole.get(name)
        read = row_reader(self._base, name) if whole is None else row_reader(self._file, whole)
        if read is None or name not in self._deltas:
            return read
        change = self._change(name)
        return lambda start, stop: read(start, stop).float() + change[start:stop]

    def _origin(self, name: str) -> Tensor:
        """Return the tensor that the change is added to."""
        return self._file.load(self._whole[name]) if name in self._whole else self._base.load(name)

    def _parts(self, name: str) -> dict[str, Tensor]:
        """Return the factors of a changed tensor by role, float32."""
        return {role: self._file.load(key).float() for role, key in self._deltas[name].keys.items()}

    def _change(self, name: str) -> Tensor:
        """Return what the adapter adds to a tensor, float32."""
        part = self._parts(name)
        if "shift" in part:
            change = part["shift"]
        elif "a" in part:
            change = part["b"] @ part["a"]
            change = change.T if self._orientation.turned(name) else change
        else:
            change = (part["embedding_b"] @ part["embedding_a"]).T
        return self._deltas[name].scale * change

    def _apart(self, file: SafetensorsFile, base: TypedSource) -> UnstackedFactors:
        """Return the adapter's tensors, with those of each expert of a mixture apart, as the base has them.
        Raises InputError for an adapter of tensors of a mixture that is not known.
        """
        stacks = self._naming.stacks
        if not stacks and self._settings.bare:
            raise InputError(
                f"{self._settings.path}: target_parameters is {self._settings.bare}, expected none, or those "
                "of a mixture of experts that is known here"
            )
        where = str(self._path)
        whole = Unstacked(file, stacks, where) if stacks else file
        return UnstackedFactors(whole, base, stacks, where)

    def _sort(self) -> tuple[dict[tuple[str, str], dict[str, str]], dict[str, str]]:
        """Return the keys of the file in two parts: factors by (module, suffix of the tensor that they
        change), and whole tensors by name.
        """
        factors: dict[tuple[str, str], dict[str, str]] = {}
        whole: dict[str, str] = {}
        for key, name in unwrapped(self._file.names(), Naming()).items():
            name = _ADAPTER_NAME.sub(r"\1", name)
            ending = next((ending for ending in _FACTORS if name.endswith(ending)), None)
            if ending is not None:
                role, suffix = _FACTORS[ending]
                factors.setdefault((name.removesuffix(ending), suffix), {})[role] = key
            elif "lora_" in name:
                raise InputError(
                    f"{self._path}: tensor {key} is none that a LoRA adapter has, expected names "
                    f"that end in {', '.join(_FACTORS)}"
                )
            else:
                whole[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = key
        if not factors and not whole:
            raise InputError(f"{self._path}: holds no tensors")
        pairs = ({"a", "b"}, {"embedding_a", "embedding_b"}, {"shift"})
        for (module, _), keys in factors.items():
            own = factors.get((module, ".weight"), {})
            if set(keys) not in pairs or ("a" not in own and "embedding_a" not in own):
                raise InputError(
                    f"{self._path}: module {module} has only {', '.join(sorted(keys.values()))}, "
                    "expected an A and a B"
                )
        return factors, whole

    def _placed(
        self, factors: Mapping[tuple[str, str], Mapping[str, str]], whole: Mapping[str, str]
    ) -> tuple[dict[str, _Delta], dict[str, str], list[str]]:
        """Return the changes and the whole tensors by their names in the base, and the keys of those that are
        left out.
        """
        stored = {self._naming.plain(name): name for name in self._base.names()}
        known = Known({plain: self._linear_shape(name) for plain, name in stored.items()}, self._naming)
        shapes = {module + suffix: self._shape(module, keys) for (module, suffix), keys in factors.items()}
        wholes = {name: self._file.shape(key) for name, key in whole.items()}
        place = place_of(self._path, self._settings, known, stored, shapes, wholes)
        deltas, taken, left_out = dict[str, _Delta](), dict[str, str](), list[str]()
        for (module, suffix), keys in factors.items():
            there = known.at(place, module + suffix, shapes[module + suffix])
            if there is None:
                left_out += keys.values()
            else:
                deltas[stored[there]] = self._delta(module, keys, factors[module, ".weight"])
        for name, key in whole.items():
            plain = self._naming.plain(place(name))
            if plain in stored or self._naming.needed is None or self._naming.needs(plain):
                taken[stored.get(plain, plain)] = key
            else:
                left_out.append(key)
        return deltas, taken, left_out

    def _delta(self, module: str, keys: Mapping[str, str], weight: Mapping[str, str]) -> _Delta:
        """Return the change of a tensor of a module, whose A has the rank on its first axis."""
        factor = weight.get("a") or weight["embedding_a"]
        rank = (self._file.shape(factor) or (0,))[0]
        return _Delta(keys, self._settings.scale(self._file.trained(module), rank, f"{self._path}: {factor}"))

    def _shape(self, module: str, keys: Mapping[str, str]) -> Shape:
        """Return the shape of the tensor that factors change, of a matrix as [out, in]."""
        shape = {role: self._file.shape(key) for role, key in keys.items()}
        if "shift" in shape:
            return shape["shift"]
        a, b = (shape["a"], shape["b"]) if "a" in shape else (shape["embedding_a"], shape["embedding_b"])
        if 0 in (*a, *b):
            raise InputError(
                f"{self._path}: the factors of {module} are of shapes {a} and {b} and hold nothing, as "
                "DeepSpeed ZeRO-3 saves what it has not gathered, expected [r, in] and [out, r]"
            )
        if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
            raise InputError(
                f"{self._path}: the factors of {module} are of shapes {a} and {b}, expected [r, in] and "
                "[out, r]"
            )
        return (a[1], b[0]) if "embedding_a" in shape else (b[0], a[1])

    def _linear_shape(self, name: str) -> Shape:
        """Return the shape of a tensor of the base, of a matrix as [out, in]."""
        shape = self._base.shape(name)
        return shape[::-1] if self._orientation.turned(name) else shape

    def _tie(self, base: TypedSource) -> None:
        """Leave out the head of a base that has none of its own, unless the adapter parts it from the
        embeddings, as peft trains it: what changes one of them does not change the other.
        """
        ties = self._naming.ties
        stored = {self._naming.plain(name): name for name in self._base.names()}
        head, table = (None, None) if ties is None else ties.pair(stored)
        if ties is None or head is None or table is None:
            return
        own = head in base.names()
        moved = [name for name in (head, table) if self._moves(name)]
        if moved and not ties.splits and (table in moved or not own):
            key = self._whole.get(moved[-1]) or min(self._deltas[moved[-1]].keys.values())
            raise InputError(
                f"{self._path}: {key} changes the embeddings in one of the places where the model reads "
                "them, expected an adapter that leaves them as they are: this kind of model has one tensor "
                "for all of these places"
            )
        if own:
            return
        if moved == [head] and self._settings.keeps_ties:
            self._whole |= {table: self._whole[head]} if head in self._whole else {}
            self._deltas |= {table: self._deltas[head]} if head in self._deltas else {}
        alike = len(moved) == 2 and torch.equal(self.load(head).float(), self.load(table).float())
        if not moved or alike or self._settings.keeps_ties:
            self._whole.pop(head, None)
            self._deltas.pop(head, None)
            self._base = base

    def _moves(self, name: str) -> bool:
        """Return whether the adapter makes another tensor of the base's. peft may save the base's own beside
        its changes.
        """
        if name in self._deltas:
            return True
        if name not in self._whole or self._file.shape(self._whole[name]) != self._base.shape(name):
            return name in self._whole
        return not torch.equal(self.load(name).float(), self._base.load(name).float())
