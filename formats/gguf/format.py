"""GGUF, as llama.cpp reads it: out of a packed checkpoint and back in."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_VERSION, GGMLQuantizationType, GGUFValueType, GGUFWriter, LlamaFileType
from numpy.typing import NDArray
from torch import Tensor

from epmq_export import files
from epmq_export.errors import InputError
from epmq_export.grids import GRIDS
from epmq_export.models.family import Family, towers
from epmq_export.models.format import PlannedTensor, StoredTensor
from epmq_export.models.specs import GgufExport, GgufSpec
from epmq_export.tensors.gguf_file import ALIGNMENT, ALIGNMENT_KEY, Value, shown
from epmq_export.tensors.gguf_splits import KEYS as SPLIT_KEYS
from epmq_export.tensors.gguf_splits import GgufModel, model_bytes, split_keys, split_paths
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.tensors.packed_index import PackedIndex
from formats.gguf.blocks import decode, encode
from formats.gguf.size import data_bytes, gguf_size, parted

FILE = "model.gguf"
_FILE_TYPES = {
    "F32": LlamaFileType.ALL_F32,
    "F16": LlamaFileType.MOSTLY_F16,
    "Q2_K": LlamaFileType.MOSTLY_Q2_K,
    "Q3_K": LlamaFileType.MOSTLY_Q3_K_S,
    "Q4_0": LlamaFileType.MOSTLY_Q4_0,
    "Q4_1": LlamaFileType.MOSTLY_Q4_1,
    "IQ4_NL": LlamaFileType.MOSTLY_IQ4_NL,
    "Q4_K": LlamaFileType.MOSTLY_Q4_K_S,
    "Q5_K": LlamaFileType.MOSTLY_Q5_K_S,
    "Q6_K": LlamaFileType.MOSTLY_Q6_K,
    "Q8_0": LlamaFileType.MOSTLY_Q8_0,
}


class Gguf:
    name = "gguf"
    grids = frozenset(GRIDS)
    packages = ("gguf",)

    def write(self, packed: Packed, family: Family, folder: Path) -> Path:
        """`model.gguf`, or the first of the files that the recipe's export.split_size asks for. The same
        packed checkpoint gives the same bytes. InputError where packed and family do not hold the same
        tensors.
        """
        spec = spec_of(family)
        _refuse_mismatch(packed, family, spec)
        layout = _layout(packed, spec)
        parts = _parts(layout, packed, family)
        back = {there: here for here, there in spec.names.items()}
        metadata = _by_file(_metadata(packed, family, spec, layout), [*parts.values()])
        paths = [folder / name for name in parts]
        try:
            for path, names, keys in zip(paths, parts.values(), metadata, strict=True):
                with files.whole(path) as built:
                    writer = _begin(built, keys, {name: layout[name] for name in names})
                    try:
                        for name in names:
                            tensor = (
                                spec.constants[name]
                                if name in spec.constants
                                else _in_file(packed.tensor(back[name]), back[name], spec)
                            )
                            writer.write_tensor_data(encode(tensor))
                    finally:
                        writer.close()
        except BaseException:
            for path in paths:  # some of a model's files are half of it
                files.remove(path)
            raise
        return paths[0]

    def sizes(
        self, tensors: Mapping[str, PlannedTensor], family: Family, index: PackedIndex
    ) -> Mapping[str, Mapping[str, int]]:
        origin = _origin(index)
        return gguf_size(FILE, tensors, spec_of(family), origin, index.split_bytes)

    def find(self, folder: Path) -> Path:
        found = [*folder.glob(FILE), *sorted(folder.glob(f"{Path(FILE).stem}-00001-of-?????.gguf"))]
        if len(found) != 1 or not found[0].is_file():
            raise InputError(
                f"{folder}: has {' and '.join(path.name for path in found)}, expected one model"
                if len(found) > 1
                else f"{folder}: has no {FILE}"
            )
        return found[0]

    def contents(self, path: Path, family: Family) -> Mapping[Path, Sequence[Family]]:
        others: dict[Path, Sequence[Family]] = {other: [] for other in split_paths(path)[1:]}
        return {path: towers(family), **others}

    def tensors(self, path: Path, family: Family) -> Iterator[StoredTensor]:
        """In the order of the file, rows and values as the checkpoint has them. A tensor that the family does
        not know keeps the name that it has in the file. Constants, and what is multiplied by a factor, which
        does not come back bit for bit, are `differences`' affair.
        """
        file = GgufModel.open(path)
        spec = spec_of(family)
        canonical = {there: here for here, there in spec.names.items()}
        for there, info in file.tensors.items():
            name = canonical.get(there, there)
            if there not in spec.constants and name not in spec.factors:
                raw = file.raw(there)
                yield StoredTensor(name, *_out_of_file(decode(path, info, raw), raw, name, spec))

    def left_out(self, family: Family) -> frozenset[str]:
        spec = spec_of(family)
        return spec.left_out.union(spec.factors)

    def differences(self, path: Path, packed: Packed, family: Family) -> list[str]:
        """Of keys, their types and values, and of the tensors' names, order, types, shapes and files."""
        file = GgufModel.open(path)
        spec = spec_of(family)
        _refuse_mismatch(packed, family, spec)
        layout = _layout(packed, spec)
        found_layout = {name: (info.type, info.shape) for name, info in file.tensors.items()}
        parts = [*_parts(layout, packed, family).values()]
        expected = _by_file(_metadata(packed, family, spec, layout), parts)
        found = _differences(file.metadata, expected[0])
        for split, keys in zip(file.files[1:], expected[1:], strict=False):
            found += [f"{split.path.name}: {sentence}" for sentence in _differences(split.metadata, keys)]
        found += [
            (
                f"tensor {shown(name)}: found {_layout_text(found_layout.get(name))}, expected "
                f"{_layout_text(layout.get(name))}"
            )
            for name in {**layout, **found_layout}
            if found_layout.get(name) != layout.get(name)
        ]
        if not found and list(found_layout) != list(layout):
            found.append("the tensors stand in another order than expected")
        if not found and [[*split.tensors] for split in file.files] != parts:
            found.append("the tensors lie in other files of the model than expected")
        if not found:
            asked = {
                **spec.constants,
                **{spec.names[name]: _in_file(packed.tensor(name), name, spec) for name in spec.factors},
            }
            held = {name: decode(path, file.tensors[name], file.raw(name)) for name in asked}
            found += [
                f"tensor {shown(name)}: its values are not those that the config asks for"
                for name in held
                if not _equal(held[name], asked[name])
            ]
        return found

    def exact(self, path: Path, scratch: Path) -> Path:
        """The F32 twin: the file's own keys, its tensors dequantised to F32, but for a convolution's, which
        clip.cpp takes in F16 only.
        """
        file = GgufModel.open(path)
        layout = {
            name: (info.type if len(info.shape) == 4 else GGMLQuantizationType.F32, info.shape)
            for name, info in file.tensors.items()
        }
        for key, value in file.metadata.items():
            if value.type == GGUFValueType.ARRAY and not value.value:
                raise InputError(f"{path}: key {shown(key)} is an empty array")
        twin = scratch / f"{path.stem}.f32.gguf"
        with files.whole(twin) as built:
            writer = _begin(
                built, {key: value for key, value in file.metadata.items() if key not in SPLIT_KEYS}, layout
            )
            try:
                for name, info in file.tensors.items():
                    tensor = decode(path, info, file.raw(name))
                    if layout[name][0] == GGMLQuantizationType.F32:
                        tensor = tensor.dequantise() if isinstance(tensor, PackedTensor) else tensor.float()
                    writer.write_tensor_data(encode(tensor))
            finally:
                writer.close()
        return twin

    def notes(self, path: Path, family: Family) -> dict[str, Any]:
        """Tensors and bytes by type."""
        file = GgufModel.open(path)
        tensors = Counter(info.type.name for info in file.tensors.values())
        size = {
            kind: sum(info.size for info in file.tensors.values() if info.type.name == kind)
            for kind in tensors
        }
        return {"bytes": model_bytes(path), "tensors": dict(tensors), "tensor_bytes": size}


def spec_of(family: Family) -> GgufSpec:
    """Return the family's layout in GGUF; InputError where it has none, or its runtimes cannot read this
    model.
    """
    return _export(family).spec()


def _export(family: Family) -> GgufExport:
    found = family.exports.get(Gguf.name)
    if not isinstance(found, GgufExport):
        raise InputError(
            f"{family.directory}: found the family {family.name}, which no runtime reads as GGUF, expected "
            f"{' or '.join(family.exports)}"
        )
    return found


Layout = Mapping[str, tuple[GGMLQuantizationType, tuple[int, ...]]]
"""Type and shape by the tensor's name in the file, in the order of the file."""


def _refuse_mismatch(packed: Packed, family: Family, spec: GgufSpec) -> None:
    for name in sorted((set(packed.names()) - spec.left_out) ^ set(spec.names)):
        state = "missing" if name in spec.names else "not one of its tensors"
        raise InputError(
            f"{packed.directory}: tensor {name} is {state}, as {family.name} is laid out in GGUF"
        )
    export = _export(family)
    for name, grid in packed.grids.items():
        if export.grids is not None and grid.file_type not in export.grids:
            known = " or ".join(sorted(export.grids))
            raise InputError(
                f"{packed.directory}: tensor {name} is on {grid.name}, expected {known}: "
                f"{export.runtimes[0]} cannot read it in GGUF"
            )


def _layout(packed: Packed, spec: GgufSpec) -> Layout:
    """The tensors, then what follows from the config."""
    constants = {
        name: (GGMLQuantizationType.F32, tuple(tensor.shape)) for name, tensor in spec.constants.items()
    }
    return {
        there: (_kind(packed, here), packed.shape(here)) for here, there in spec.names.items()
    } | constants


def _parts(layout: Layout, packed: Packed, family: Family) -> dict[str, list[str]]:
    """Tensors by the file that they lie in."""
    parts = parted(
        FILE, {name: data_bytes(*entry) for name, entry in layout.items()}, packed.index.split_bytes
    )
    export = _export(family)
    if len(parts) > 1 and not export.splits:
        raise InputError(
            f"{packed.directory}: its recipe has export.split_size, expected none: "
            f"{export.runtimes[0]} reads no model in several files"
        )
    return parts


def _by_file(metadata: Mapping[str, Value], parts: Sequence[Sequence[str]]) -> list[dict[str, Value]]:
    """The metadata of each file: all in the first, and in every one of several its place among them."""
    if len(parts) == 1:
        return [dict(metadata)]
    keys = [split_keys(number, len(parts), sum(map(len, parts))) for number in range(len(parts))]
    return [{**metadata, **keys[0]}, *keys[1:]]


def _in_file(tensor: PackedTensor | Tensor, name: str, spec: GgufSpec) -> PackedTensor | Tensor:
    if name in spec.orders:
        return _reordered(tensor, spec.orders[name])
    if name in spec.factors and isinstance(tensor, Tensor):
        return tensor.float() * spec.factors[name]
    return (
        tensor.float() + spec.offsets[name] if name in spec.offsets and isinstance(tensor, Tensor) else tensor
    )


def _out_of_file(
    tensor: PackedTensor | Tensor, raw: NDArray[np.uint8], name: str, spec: GgufSpec
) -> tuple[PackedTensor | Tensor, NDArray[np.uint8]]:
    """The inverse; None undone for a tensor of another shape than the family's, which the checks tell of."""
    order = spec.orders.get(name)
    shape = tensor.codes.shape if isinstance(tensor, PackedTensor) else tensor.shape
    if order is not None and shape[0] == len(order):
        back = order.argsort()
        return _reordered(tensor, back), raw.reshape(len(order), -1)[back.numpy()].reshape(-1)
    return (
        tensor.float() - spec.offsets[name] if name in spec.offsets and isinstance(tensor, Tensor) else tensor
    ), raw


def _reordered(tensor: PackedTensor | Tensor, order: Tensor) -> PackedTensor | Tensor:
    if isinstance(tensor, PackedTensor):
        return PackedTensor(
            tensor.grid,
            tensor.codes[order],
            {part: numbers[order] for part, numbers in tensor.stored.items()},
        )
    return tensor[order]


def _equal(found: PackedTensor | Tensor, expected: PackedTensor | Tensor) -> bool:
    return isinstance(found, Tensor) and isinstance(expected, Tensor) and torch.equal(found, expected)


def _kind(packed: Packed, name: str) -> GGMLQuantizationType:
    """A vector is F32, as llama.cpp wants it; a matrix is F16 where it is packed in half precision."""
    if name in packed.grids:
        return GGMLQuantizationType[packed.grids[name].file_type]
    half = len(packed.shape(name)) > 1 and packed.load(name).dtype == torch.float16
    return GGMLQuantizationType.F16 if half else GGMLQuantizationType.F32


def _metadata(packed: Packed, family: Family, spec: GgufSpec, layout: Layout) -> dict[str, Value]:
    config = _config(packed)
    matrices = Counter(kind.name for kind, shape in layout.values() if len(shape) > 1)
    values: dict[str, Any] = {
        "general.architecture": spec.architecture,
        "general.type": "model",
        "general.name": Path(str(config.get("_name_or_path") or family.name)).name,
        "general.file_type": int(_FILE_TYPES[max(matrices, key=lambda kind: matrices[kind])]),
        "general.quantization_version": GGML_QUANT_VERSION,
        ALIGNMENT_KEY: ALIGNMENT,
    }
    if isinstance(config.get("license"), str):
        values["general.license"] = config["license"]
    values |= spec.metadata
    values |= _origin(packed.index)
    if "epmq-export" in packed.index.versions:
        values["epmq.version"] = packed.index.versions["epmq-export"]
    return {key: _value(value) for key, value in values.items()}


def _origin(index: PackedIndex) -> dict[str, str]:
    """Return the keys that say where the file comes from, each as JSON."""
    return {
        f"epmq.{key}": json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        for key, value in index.provenance.items()
    }


def _config(packed: Packed) -> dict[str, Any]:
    path = packed.directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: found a {type(config).__name__}, expected an object")
    return config


def _value(value: object) -> Value:
    if isinstance(value, bytes):
        return Value(GGUFValueType.ARRAY, list(value), GGUFValueType.UINT8)
    if isinstance(value, list):
        return Value(
            GGUFValueType.ARRAY, [_value(item).value for item in value], _scalar_type(value[0], of_list=True)
        )
    # rounded as the file rounds it, so that it compares equal to what is read back
    return Value(_scalar_type(value), float(np.float32(value)) if isinstance(value, float) else value)


def _scalar_type(value: object, *, of_list: bool = False) -> GGUFValueType:
    match value:
        case bool():
            return GGUFValueType.BOOL
        case int():
            return GGUFValueType.INT32 if of_list else GGUFValueType.UINT32
        case float():
            return GGUFValueType.FLOAT32
        case _:
            return GGUFValueType.STRING


def _begin(path: Path, metadata: Mapping[str, Value], layout: Layout) -> GGUFWriter:
    """A writer that has written everything before the tensors' data."""
    writer = GGUFWriter(path, "")
    writer.kv_data[0].clear()  # the architecture is one of the keys, in its own place
    for key, value in metadata.items():
        writer.add_key_value(key, value.value, value.type, value.items)
    writer.data_alignment = metadata[ALIGNMENT_KEY].value if ALIGNMENT_KEY in metadata else ALIGNMENT
    for name, (kind, shape) in layout.items():
        writer.add_tensor_info(name, shape, np.dtype(np.float32), data_bytes(kind, shape), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    return writer


def _differences(found: Mapping[str, Value], expected: Mapping[str, Value]) -> list[str]:
    """One sentence for each key that differs; of an array, its first item that does."""
    sentences = []
    for key in {**expected, **found}:
        there, here = found.get(key), expected.get(key)
        label = shown(key)
        if there == here:
            continue
        if there is None:
            sentences.append(f"key {label} is missing: expected {_short(expected[key].value)}")
        elif here is None:
            sentences.append(f"key {label} is not expected: found {_short(there.value)}")
        elif (there.type, there.items) != (here.type, here.items):
            sentences.append(f"key {label}: found type {_type_text(there)}, expected {_type_text(here)}")
        elif there.type == GGUFValueType.ARRAY and len(there.value) != len(here.value):
            sentences.append(f"key {label}: found {len(there.value)} items, expected {len(here.value)}")
        elif there.type == GGUFValueType.ARRAY:
            differing = [
                index
                for index, (one, other) in enumerate(zip(there.value, here.value, strict=True))
                if one != other
            ]
            first = differing[0]
            more = f" ({len(differing)} items differ)" if len(differing) > 1 else ""
            sentences.append(
                f"key {label}[{first}]: found {_short(there.value[first])}, expected "
                f"{_short(here.value[first])}{more}"
            )
        else:
            sentences.append(f"key {label}: found {_short(there.value)}, expected {_short(here.value)}")
    return sentences


def _short(value: object) -> str:
    return shown(repr(value))


def _type_text(value: Value) -> str:
    return f"array of {value.items.name}" if value.items is not None else value.type.name


def _layout_text(entry: tuple[GGMLQuantizationType, tuple[int, ...]] | None) -> str:
    return f"{entry[0].name} {list(entry[1])}" if entry else "none"
