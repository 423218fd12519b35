"""A GGUF model that this project wrote, read back."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFValueType
from numpy.typing import NDArray
from torch import Tensor

from epmq_export import files
from epmq_export.errors import InputError
from epmq_export.models.family import Family, heads_of, towers
from epmq_export.models.format import StoredTensor
from epmq_export.models.specs import GgufSpec
from epmq_export.tensors.ggml_types import F32, GgmlType
from epmq_export.tensors.gguf_file import shown
from epmq_export.tensors.gguf_splits import KEYS as SPLIT_KEYS
from epmq_export.tensors.gguf_splits import GgufModel, model_bytes, split_paths
from epmq_export.tensors.packed import Packed, PackedTensor
from formats.gguf.beside import files_beside
from formats.gguf.blocks import decode
from formats.gguf.metadata import by_file, key_differences, metadata_of
from formats.gguf.placement import Layout, packed_layout
from formats.gguf.spec import spec_of
from formats.gguf.values import in_checkpoint, in_file, not_restored
from formats.gguf.writer import write_gguf
from formats.weights_beside import weights_differences


class WrittenGguf:
    """The files of one model. Their headers are read once, when they are first needed, and tensors are read
    one at a time.
    """

    def __init__(self, path: Path, family: Family) -> None:
        """Take `path`, which is the first of the files. Nothing is read yet."""
        self.path, self._family = path, family

    def files(self, family: Family) -> Mapping[Path, Sequence[Family]]:
        known = self._spec.beside_weights if heads_of(self._family) else ()
        beside = [self.path.with_name(name) for name in known]
        others: dict[Path, Sequence[Family]] = {other: [] for other in [*split_paths(self.path)[1:], *beside]}
        return {self.path: towers(family), **others}

    def tensors(self) -> Iterator[StoredTensor]:
        """Yield the tensors in the order of the file, with rows and values as the checkpoint has them.

        A tensor that the family does not know keeps its name in the file. Constants, and tensors that do not
        come back bit for bit, are left to `differences`.
        """
        spec = self._spec
        known, lost = spec.members, not_restored(spec)
        for there in self._model.tensors:
            members = known.get(there, [there])
            if there in spec.constants or lost.intersection(members):
                continue
            parts = [*self._parts(there)] if len(members) > 1 else [self._whole(there)]
            if len(parts) != len(members):
                members = [f"{there}, {number}" for number in range(len(parts))]
            for name, (value, raw) in zip(members, parts, strict=True):
                yield StoredTensor(name, *in_checkpoint(value, raw, name, spec))

    def differences(self, packed: Packed) -> list[str]:
        """Return a sentence for each difference in keys, their types and values, and in the tensors' names,
        order, types, shapes and files.
        """
        held = {name: (info.type, info.shape) for name, info in self._model.tensors.items()}
        layout, parts = packed_layout(packed, self._family, self._spec)
        found = [*self._key_differences(packed, layout, [*parts.values()])]
        beside = files_beside(packed, self._spec, heads_of(self._family))
        found += weights_differences(self.path.parent, beside)
        found += [
            f"tensor {shown(name)}: found {_layout_text(held.get(name))}, expected "
            f"{_layout_text(layout.get(name))}"
            for name in {**layout, **held}
            if held.get(name) != layout.get(name)
        ]
        if found:
            return found
        if list(held) != list(layout):
            found.append("the tensors stand in another order than expected")
        elif [[*split.tensors] for split in self._model.files] != [*parts.values()]:
            found.append("the tensors lie in other files of the model than expected")
        return found or [*self._value_differences(packed)]

    def exact(self, file: Path, scratch: Path) -> Path:
        """Write the F32 twin and return it: the file's own keys, and its tensors dequantised to F32, but for
        that of a convolution, which clip.cpp takes in F16 only.
        """
        model = self._model
        layout = {
            name: (info.type if len(info.shape) == 4 else F32, info.shape)
            for name, info in model.tensors.items()
        }
        for key, value in model.metadata.items():
            if value.type == GGUFValueType.ARRAY and not value.value:
                raise InputError(f"{self.path}: key {shown(key)} is an empty array")
        metadata = {key: value for key, value in model.metadata.items() if key not in SPLIT_KEYS}

        def exactly(name: str) -> Iterator[PackedTensor | Tensor]:
            for tensor, _ in self._parts(name):
                if layout[name][0] != F32:
                    yield tensor
                else:
                    yield tensor.dequantise() if isinstance(tensor, PackedTensor) else tensor.float()

        twin = scratch / f"{self.path.stem}.f32.gguf"
        with files.whole(twin) as built:
            write_gguf(built, metadata, layout, map(exactly, layout))
        return twin

    def notes(self) -> dict[str, Any]:
        """Return `bytes` of all files, and `tensors` and `tensor_bytes` by type."""
        infos = self._model.tensors.values()
        counts = Counter(info.type.name for info in infos)
        size = {kind: sum(info.size for info in infos if info.type.name == kind) for kind in counts}
        return {"bytes": model_bytes(self.path), "tensors": dict(counts), "tensor_bytes": size}

    @cached_property
    def _model(self) -> GgufModel:
        return GgufModel.open(self.path)

    @cached_property
    def _spec(self) -> GgufSpec:
        return spec_of(self._family)

    def _whole(self, name: str) -> tuple[PackedTensor | Tensor, NDArray[np.uint8]]:
        """Return a tensor and its bytes."""
        raw = self._model.raw(name)
        return decode(self.path, self._model.tensors[name], raw), raw

    def _parts(self, name: str) -> Iterator[tuple[PackedTensor | Tensor, NDArray[np.uint8]]]:
        """Yield a tensor of several matrices as these, with their bytes; any other one as it is."""
        info = self._model.tensors[name]
        if len(info.shape) != 3:
            yield self._whole(name)
            return
        for raw in self._model.raw(name).reshape(info.shape[0], -1):
            yield decode(self.path, replace(info, shape=info.shape[1:]), raw), raw

    def _key_differences(
        self, packed: Packed, layout: Layout, parts: Sequence[Sequence[str]]
    ) -> Iterator[str]:
        first, *others = by_file(metadata_of(packed, self._family, self._spec, layout), parts)
        yield from key_differences(self._model.metadata, first)
        for split, keys in zip(self._model.files[1:], others, strict=False):
            for sentence in key_differences(split.metadata, keys):
                yield f"{split.path.name}: {sentence}"

    def _value_differences(self, packed: Packed) -> Iterator[str]:
        """Yield a sentence for each difference in the tensors that `tensors` does not give."""
        spec = self._spec
        asked = dict(spec.constants)
        for name in sorted(not_restored(spec)):
            tensor = in_file(packed.tensor(name), name, spec)
            assert isinstance(tensor, Tensor)
            asked[spec.names[name]] = tensor
        for name, expected in asked.items():
            found, _ = self._whole(name)
            if not isinstance(found, Tensor) or not torch.equal(found, expected):
                yield f"tensor {shown(name)}: its values are not those that the config asks for"


def _layout_text(entry: tuple[GgmlType, tuple[int, ...]] | None) -> str:
    return f"{entry[0].name} {list(entry[1])}" if entry else "none"
