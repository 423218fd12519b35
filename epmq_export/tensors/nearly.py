"""Directories that are nearly models: what they look like, and what to give instead."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from epmq_export.tensors.directory import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    PACKED_INDEX,
    SHARD_INDEX,
    WEIGHTS,
)

_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)\.safetensors")
_REPOSITORY = re.compile(r"models--(.+)")
_OTHERS = {
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".onnx": "ONNX",
    ".npz": "MLX or NumPy",
    ".pdparams": "Paddle",
}
# What is left of trainings in parts, with what makes a model of them.
_PARTS = {
    "zero_to_fp32.py": "DeepSpeed, whose zero_to_fp32.py in it makes one",
    "global_step*": "DeepSpeed, whose zero_to_fp32.py makes one",
    "*.distcp": "FSDP, of which `accelerate merge-weights` makes one",
    "pytorch_model_fsdp_*": "FSDP, of which `accelerate merge-weights` makes one",
}


def looks_like(directory: Path) -> str:
    """Return in words what a directory without a model is and what to give instead, as a part of a sentence;
    nothing where it looks like nothing known.
    """
    for look in _LOOKS:
        found = look(directory)
        if found is not None:
            return found
    return ""


def holds_model(directory: Path) -> bool:
    """Return whether a directory has a model's weights, or an adapter."""
    names = (WEIGHTS, SHARD_INDEX, ADAPTER_CONFIG)
    return any((directory / name).is_file() for name in names) and not _is_packed(directory)


def _is_packed(directory: Path) -> bool:
    return (directory / PACKED_INDEX).is_file()


def _output(directory: Path) -> str | None:
    """Recognise what this project writes."""
    if _is_packed(directory):
        return "it is a packed checkpoint, whose weights are rounded already: give the models it was made of"
    if _is_packed(directory / "packed"):
        return (
            "it is an output of epmq, whose weights are rounded already: give the models that it was made of"
        )
    return None


def _cache(directory: Path) -> str | None:
    """Recognise a repository's folder in the hub's cache, and the folders around and within it."""
    repository = directory.parent if directory.name in ("snapshots", "blobs", "refs") else directory
    if (repository / "snapshots").is_dir() and (
        (repository / "blobs").is_dir() or (repository / "refs").is_dir()
    ):
        named = _REPOSITORY.fullmatch(repository.name)
        known = f"the hub id {named[1].replace('--', '/')!r} or " if named else ""
        snapshots = _directories(repository / "snapshots")
        place = next((place for place in snapshots if holds_model(place)), repository / "snapshots" / "...")
        return f"it is a folder of the hub's cache: give {known}{place}"
    if found := [place for place in _directories(directory) if _REPOSITORY.fullmatch(place.name)]:
        name = found[0].name.removeprefix("models--").replace("--", "/")
        return f"it is the hub's cache: give the hub id of a model in it, such as {name!r}"
    return None


def _checkpoints(directory: Path) -> str | None:
    """Recognise a trainer's folder."""
    numbered = [
        (int(place.name.removeprefix("checkpoint-")), place)
        for place in _directories(directory)
        if re.fullmatch(r"checkpoint-\d+", place.name) and holds_model(place)
    ]
    if not numbered:
        return None
    return f"it is a trainer's folder of checkpoints: give one of them, such as the last, {max(numbered)[1]}"


def _shards(directory: Path) -> str | None:
    """Recognise shards without their index."""
    found = [match for path in _files(directory) if (match := _SHARD.fullmatch(path.name))]
    if not found:
        return None
    expected, numbers = int(found[0][3]), sorted({int(match[2]) for match in found})
    there = f"{len(numbers)} of {expected} shards (the first is {found[0][0]})"
    return f"it has {there}, but not their index: give a directory with {SHARD_INDEX} too"


def _other_weights(directory: Path) -> str | None:
    """Recognise weights under other names, and of other libraries."""
    files = _files(directory)
    gguf = [path for path in files if path.suffix == ".gguf"]
    if gguf:
        return f"it holds a GGUF file: give that, {gguf[0]}"
    named = [path for path in files if path.suffix == ".safetensors"]
    if len(named) == 1:
        wanted = ADAPTER_WEIGHTS if "lora" in named[0].name or "adapter" in named[0].name else WEIGHTS
        return f"it has weights of another name, {named[0].name}: transformers calls them {wanted}"
    if named:
        return f"it has {len(named)} files of weights, such as {named[0].name}, and no {WEIGHTS}"
    for path in files:
        if path.suffix in _OTHERS:
            return f"it has weights of {_OTHERS[path.suffix]}, {path.name}: give a directory with safetensors"
    return None


def _parts(directory: Path) -> str | None:
    """Recognise a training's state in parts, which is no model yet."""
    for pattern, maker in _PARTS.items():
        if next(directory.glob(pattern), None) is not None:
            return f"it is a checkpoint in parts of {maker}: give what that writes"
    return None


def _nested(directory: Path) -> str | None:
    """Recognise a folder around a model."""
    inner = [place for place in _directories(directory) if holds_model(place)]
    if not inner:
        inner = [
            place for outer in _directories(directory) for place in _directories(outer) if holds_model(place)
        ]
    if not inner:
        return None
    return (
        f"a model is in {inner[0]}: give that"
        if len(inner) == 1
        else (f"{len(inner)} models are in it: give one of them, such as {inner[0]}")
    )


def _config_alone(directory: Path) -> str | None:
    if (directory / CONFIG).is_file():
        return f"it has a {CONFIG} alone: its weights have not been copied or downloaded"
    return None


_LOOKS: Sequence[Callable[[Path], str | None]] = (
    _output,
    _cache,
    _checkpoints,
    _shards,
    _nested,
    _parts,
    _other_weights,
    _config_alone,
)


def _directories(directory: Path) -> list[Path]:
    return _sorted(directory, Path.is_dir)


def _files(directory: Path) -> list[Path]:
    return _sorted(directory, Path.is_file)


def _sorted(directory: Path, kind: Callable[[Path], bool]) -> list[Path]:
    """Return what is in a directory, as far as it may be read."""
    try:
        return sorted(path for path in directory.iterdir() if kind(path))
    except OSError:
        return []
