"""The description of any model file or directory: kind, metadata and tensors. Headers are read, weights are
not.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.tensors.description import PROVENANCE, Description, TensorDescription
from epmq_export.tensors.directory import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    PACKED_INDEX,
    PACKED_SHARD_INDEX,
    PACKED_WEIGHTS,
    PICKLES,
    SHARD_INDEX,
    WEIGHTS,
    pickle_refusal,
    read_shard_index,
    require_in_shard,
)
from epmq_export.tensors.gguf_file import MAGIC
from epmq_export.tensors.gguf_splits import GgufModel
from epmq_export.tensors.safetensors_header import Header, read_header

log = logging.getLogger(__name__)
ENDINGS = (".gguf", ".onnx", ".safetensors")
DEEPEST = 40
_EXPECTED = "a .gguf, .onnx or .safetensors file, a packed checkpoint, a model directory or a LoRA adapter"


def describe(path: Path) -> Description:
    """Return the description of the model at `path`.

    Raises InputError where there is nothing at `path`, nothing that is a model, or a model that is not whole.
    """
    try:
        description = _directory(path) if path.is_dir() else _file(path)
        _refuse_deep(description)
        return description
    except OSError as error:
        raise InputError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from None


def _file(path: Path) -> Description:
    if not path.exists():
        raise InputError(f"{path}: no such file or directory")
    if not path.is_file():
        raise InputError(f"{path}: neither a file nor a directory")
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
    ending = path.suffix.lower()
    if ending == ".gguf" or magic == MAGIC:
        return _gguf(path)
    if ending == ".onnx":
        return _onnx(path)
    if ending == ".safetensors":
        header = read_header(path)
        return Description(kind="safetensors", path=path, metadata=header.metadata, tensors=header.tensors)
    if ending in PICKLES:
        raise InputError(f"{path}: {pickle_refusal(path.name)}")
    raise InputError(
        f"{path}: found {f'the ending {ending!r}' if ending else 'no ending'}, expected {_EXPECTED}"
    )


def _refuse_deep(description: Description) -> None:
    """Raise InputError for metadata that are nested deeper than those of any model. JSON may nest deeper than
    Python can then print.
    """
    level: list[object] = [description.metadata, description.provenance]
    for _ in range(DEEPEST):
        level = [
            item
            for part in level
            if isinstance(part, Mapping | list)
            for item in (part.values() if isinstance(part, Mapping) else part)
        ]
    if any(isinstance(part, Mapping | list) for part in level):
        raise InputError(f"{description.path}: its metadata are nested deeper than {DEEPEST} levels")


def _gguf(path: Path) -> Description:
    file = GgufModel.open(path)
    metadata = {key: value.value for key, value in file.metadata.items()}
    tensors = [
        TensorDescription(name=info.name, type=info.type.name, shape=info.shape, bytes=info.size)
        for info in file.tensors.values()
    ]
    return Description(
        kind="gguf",
        path=path,
        metadata={"gguf.version": file.files[0].version, **metadata},
        tensors=tensors,
        provenance=_provenance(metadata),
    )


def _onnx(path: Path) -> Description:
    from formats.onnx.file import OnnxFile  # This takes a quarter of a second, so only this kind pays it.

    file = OnnxFile.open(path)
    for name in file.elsewhere:
        if not (path.parent / name).is_file():
            log.warning("%s keeps tensors in %s, which is not there: no runtime will load it", path, name)
    return Description(
        kind="onnx",
        path=path,
        metadata=file.metadata,
        tensors=file.tensors,
        provenance=_provenance(file.metadata),
    )


def _directory(directory: Path) -> Description:
    if (directory / PACKED_INDEX).exists():
        return _packed(directory)
    if (directory / ADAPTER_CONFIG).exists() and (directory / ADAPTER_WEIGHTS).exists():
        header = read_header(directory / ADAPTER_WEIGHTS)
        return Description(
            kind="LoRA adapter",
            path=directory,
            metadata=read_json(directory / ADAPTER_CONFIG) | _prefixed(header),
            tensors=header.tensors,
        )
    header = _weights(directory)
    config = read_json(directory / CONFIG) if (directory / CONFIG).exists() else {}
    return Description(
        kind="Hugging Face model",
        path=directory,
        metadata=config | _prefixed(header),
        tensors=header.tensors,
    )


def _packed(directory: Path) -> Description:
    from epmq_export.tensors.packed import (
        Packed,
    )  # This imports torch for seconds, so only this kind pays it.

    packed = Packed(directory)
    stored = {tensor.name: tensor for tensor in _weights(directory).tensors}
    tensors = []
    for name in packed.names():
        if name in packed.grids:
            size = sum(stored[f"{name}.{part}"].bytes for part in ("codes", *packed.grids[name].parts))
            tensors.append(
                TensorDescription(
                    name=name, type=packed.grids[name].name, shape=packed.shape(name), bytes=size
                )
            )
        else:
            tensors.append(stored[name])
    told = packed.index.as_dict()
    # The grids are left out, because they are the types of the tensors.
    metadata = {key: value for key, value in told.items() if key not in (*PROVENANCE, "grids")}
    return Description(
        kind="packed checkpoint",
        path=directory,
        metadata=metadata,
        tensors=tensors,
        provenance=packed.index.provenance,
    )


def _weights(directory: Path) -> Header:
    for whole, index in ((WEIGHTS, SHARD_INDEX), (PACKED_WEIGHTS, PACKED_SHARD_INDEX)):
        if (directory / index).exists() and not (directory / whole).exists():
            return _sharded(directory / index)
    return read_header(_only_weights(directory))


def _sharded(index: Path) -> Header:
    placed = read_shard_index(index)
    metadata: dict[str, str] = {}
    tensors: list[TensorDescription] = []
    for shard in sorted(set(placed.values())):
        expected = {name for name, place in placed.items() if place == shard}
        header = read_header(index.parent / shard)
        require_in_shard(index, shard, expected, {tensor.name for tensor in header.tensors})
        metadata |= header.metadata
        tensors += [tensor for tensor in header.tensors if tensor.name in expected]
    return Header(metadata, tensors)


def _only_weights(directory: Path) -> Path:
    """Return model.safetensors, or the only safetensors file of another name."""
    if (directory / WEIGHTS).exists():
        return directory / WEIGHTS
    found = sorted(path for path in directory.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{directory}: found {len(found)} safetensors files and no {SHARD_INDEX}; name one of them, "
            "such as "
            f"{found[0]}"
        )
    inner = sorted(
        path
        for ending in (*ENDINGS, f"/{PACKED_INDEX}")
        for pattern in ("*", "*/*", "*/*/*")
        for path in directory.glob(f"{pattern}{ending}")
        if path.name != PACKED_WEIGHTS  # The directory that it lies in is named.
    )
    if inner:
        there = [path.parent if path.name == PACKED_INDEX else path for path in inner]
        raise InputError(
            f"{directory}: found no model right in it; name one of these: "
            f"{', '.join(str(path) for path in there[:5])}"
        )
    if pickles := sorted(path for path in directory.iterdir() if path.suffix in PICKLES):
        raise InputError(f"{directory}: {pickle_refusal(pickles[0].name)}")
    raise InputError(f"{directory}: found no weights in it, expected {_EXPECTED}")


def _prefixed(header: Header) -> dict[str, str]:
    """Return a header's own metadata under names apart from the keys of the configuration."""
    return {f"safetensors.{key}": value for key, value in header.metadata.items()}


def _provenance(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what this project wrote about the file's origin."""
    found = {}
    for key in PROVENANCE:
        text = metadata.get(f"epmq.{key}")
        if text is not None:
            found[key] = _parsed(text)
    return found


def _parsed(text: object) -> object:
    """Return the value of a text in JSON. Any other text stays as it is, because a file of others may have a
    key `epmq.*`.
    """
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return text
