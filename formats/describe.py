"""Any model file or directory described: kind, metadata, tensors. Headers are read, weights are not."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epmq_export.description import Description, TensorDescription
from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.gguf_file import MAGIC
from epmq_export.gguf_splits import GgufModel
from formats.safetensors_file import Header, read_header

log = logging.getLogger(__name__)
CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PACKED = "packed.json"
ENDINGS = (".gguf", ".onnx", ".safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
DEEPEST = 40
_EXPECTED = "a .gguf, .onnx or .safetensors file, a packed checkpoint, a model directory or a LoRA adapter"
# What packed.json tells of the origin; GGUF and ONNX have the same as `epmq.*`, in JSON.
_PROVENANCE = ("recipe", "inputs", "method", "versions")


def describe(path: Path) -> Description:
    """InputError where there is nothing at `path`, nothing that is a model, or a model that is not whole."""
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
        return Description("safetensors", path, header.metadata, header.tensors)
    if ending in PICKLES:
        raise InputError(f"{path}: {_pickle(path)}")
    raise InputError(
        f"{path}: found {f'the ending {ending!r}' if ending else 'no ending'}, expected {_EXPECTED}"
    )


def _refuse_deep(description: Description) -> None:
    """JSON may nest deeper than Python can then print; no model's metadata do."""
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
        TensorDescription(info.name, info.type.name, info.shape, info.size) for info in file.tensors.values()
    ]
    return Description(
        "gguf", path, {"gguf.version": file.files[0].version, **metadata}, tensors, _provenance(metadata)
    )


def _onnx(path: Path) -> Description:
    from formats.onnx_file import OnnxFile  # a quarter of a second, for this kind of file only

    file = OnnxFile.open(path)
    for name in file.elsewhere:
        if not (path.parent / name).is_file():
            log.warning("%s keeps tensors in %s, which is not there: no runtime will load it", path, name)
    return Description("onnx", path, file.metadata, file.tensors, _provenance(file.metadata))


def _directory(directory: Path) -> Description:
    if (directory / PACKED).exists():
        return _packed(directory)
    if (directory / ADAPTER_CONFIG).exists() and (directory / ADAPTER_WEIGHTS).exists():
        header = read_header(directory / ADAPTER_WEIGHTS)
        return Description(
            "LoRA adapter",
            directory,
            read_json(directory / ADAPTER_CONFIG) | _prefixed(header),
            header.tensors,
        )
    header = _weights(directory)
    config = read_json(directory / CONFIG) if (directory / CONFIG).exists() else {}
    return Description("Hugging Face model", directory, config | _prefixed(header), header.tensors)


def _packed(directory: Path) -> Description:
    from epmq_export.packed import Packed  # torch, seconds: for this kind only

    packed = Packed(directory)
    stored = {tensor.name: tensor for tensor in _weights(directory).tensors}
    tensors = []
    for name in packed.names():
        if name in packed.grids:
            size = sum(stored[f"{name}.{part}"].bytes for part in ("codes", *packed.grids[name].parts))
            tensors.append(TensorDescription(name, packed.grids[name].name, packed.shape(name), size))
        else:
            tensors.append(stored[name])
    metadata = {
        key: value for key, value in packed.index.items() if key not in (*_PROVENANCE, "grids")
    }  # a grid is its tensor's type
    return Description(
        "packed checkpoint",
        directory,
        metadata,
        tensors,
        {key: packed.index[key] for key in _PROVENANCE if key in packed.index},
    )


def _weights(directory: Path) -> Header:
    sharded = (directory / INDEX).exists() and not (directory / WEIGHTS).exists()
    return _sharded(directory / INDEX) if sharded else read_header(_only_weights(directory))


def _sharded(index: Path) -> Header:
    content = read_json(index)
    placed = content.get("weight_map")
    if (
        not isinstance(placed, dict)
        or not placed
        or not all(isinstance(shard, str) and Path(shard).name == shard for shard in placed.values())
    ):
        raise InputError(
            f"{index}: weight_map is {placed!r:.80}, expected an object from tensors to files of this "
            "directory"
        )
    metadata: dict[str, str] = {}
    tensors: list[TensorDescription] = []
    for shard in sorted(set(placed.values())):
        expected = {name for name, place in placed.items() if place == shard}
        if not (index.parent / shard).is_file():
            raise InputError(
                f"{index}: tensor {min(expected)} is said to be in {shard}, but that shard is missing"
            )
        header = read_header(index.parent / shard)
        if missing := expected - {tensor.name for tensor in header.tensors}:
            raise InputError(
                f"{index}: tensor {min(missing)} is said to be in {shard}, but that shard has no such tensor"
            )
        metadata |= header.metadata
        tensors += [tensor for tensor in header.tensors if tensor.name in expected]
    return Header(metadata, tensors)


def _only_weights(directory: Path) -> Path:
    """model.safetensors, or the one safetensors file of another name."""
    if (directory / WEIGHTS).exists():
        return directory / WEIGHTS
    found = sorted(path for path in directory.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{directory}: found {len(found)} safetensors files and no {INDEX}; name one of them, such as "
            f"{found[0]}"
        )
    inner = sorted(
        path
        for ending in (*ENDINGS, f"/{PACKED}")
        for pattern in ("*", "*/*")
        for path in directory.glob(f"{pattern}{ending}")
    )
    if inner:
        there = [path.parent if path.name == PACKED else path for path in inner]
        raise InputError(
            f"{directory}: found no model right in it; name one of these: "
            f"{', '.join(str(path) for path in there[:5])}"
        )
    if pickles := sorted(path for path in directory.iterdir() if path.suffix in PICKLES):
        raise InputError(f"{directory}: {_pickle(pickles[0])}")
    raise InputError(f"{directory}: found no weights in it, expected {_EXPECTED}")


def _pickle(path: Path) -> str:
    return (
        f"{path.name} is a pickle, which can run any program when it is opened, so it is not opened; "
        f"expected {_EXPECTED}"
    )


def _prefixed(header: Header) -> dict[str, str]:
    """A header's own metadata, apart from the keys of the configuration."""
    return {f"safetensors.{key}": value for key, value in header.metadata.items()}


def _provenance(metadata: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key in _PROVENANCE:
        text = metadata.get(f"epmq.{key}")
        if text is not None:
            found[key] = _parsed(text)
    return found


def _parsed(text: object) -> object:
    """A file of others may call anything `epmq.*`: what is no JSON stays as it is."""
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return text
