"""A GGUF file as a checkpoint: its tensors under Hugging Face's names, decoded one at a time, and the
directory that transformers would have for it.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import torch
from gguf import GGUFValueType
from torch import Tensor

from converters.decoder.kinds import ARCHITECTURES, MIXTURES, Kind
from converters.decoder.layout import (
    DIVISORS,
    EXPERTS,
    HEADS,
    SHARED_HEADS,
    SHORT_LONG,
    interleaved,
    is_of_expert,
    offsets,
    rotated,
    tensor_names,
)
from converters.decoder.names import EMBEDDINGS, HEAD, naming
from converters.from_gguf.config import write_config
from converters.from_gguf.decoding import PLAIN, decoded, require_decodable
from converters.from_gguf.tokenizer import write_tokenizer
from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.files.scratch import Scratch
from epmq_export.tensors.directory import CONFIG
from epmq_export.tensors.gguf_file import shown
from epmq_export.tensors.gguf_splits import GgufModel
from epmq_export.tensors.source import TypedSource

log = logging.getLogger(__name__)
_ARCHITECTURE = "general.architecture"


class GgufBase:
    """A GGUF model, opened by its file or the first of several. Opening it reads headers, and writes
    config.json and the tokenizer to a temporary directory.

    Raises InputError for a file that is no whole model of a known architecture.
    """

    changed: frozenset[str] | None = None
    notes: Sequence[str] = ()

    def __init__(self, location: str, path: Path) -> None:
        self.location, self._path = location, path
        self._model = GgufModel.open(path)
        kind, tensors = _kind(path, self._model), self._model.tensors
        layers = _count(path, self._model, "block_count")
        self._names = _names(path, kind, self._model)
        # The divisors of rotations are no weights. config.json has them in its own way.
        if unknown := sorted(set(tensors) - set(self._names.values()) - set(_divisors(kind))):
            raise InputError(
                f"{path}: tensor {shown(unknown[0])} is none of a {kind.architecture} of {layers} layers "
                "in transformers"
            )
        if missing := [name for name, there in self._names.items() if there not in tensors]:
            raise InputError(
                f"{path}: has no tensor for {missing[0]}, expected one: it is no whole "
                f"{kind.architecture} of {layers} layers"
            )
        for stored in {info.type for info in tensors.values()} - set(PLAIN):
            require_decodable(path, stored)
        self._parts = _parts(self._names)
        self._offsets, self._orders = offsets(kind, self._names), self._rows(kind)
        self.directory = self.model_directory = _directory(path.resolve(), path.stat().st_mtime_ns)
        _tell_of_rounding(path.resolve(), path.stat().st_mtime_ns)
        self.naming = naming(read_json(self.directory / CONFIG))

    @property
    def own(self) -> TypedSource:
        return self

    def names(self) -> list[str]:
        return sorted(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self._model.tensors[self._there(name)].shape
        return shape[1:] if name in self._parts else shape

    def dtype(self, name: str) -> torch.dtype:
        """Return float32 for a tensor on a grid and for a norm whose weight the file has changed, and else
        the dtype of the file.
        """
        kind = self._model.tensors[self._there(name)].type
        return torch.float32 if name in self._offsets else PLAIN.get(kind, torch.float32)

    def load(self, name: str) -> Tensor:
        value = _decoded(self._model, self._there(name), self._parts.get(name))
        if name in self._orders:
            value = value[self._orders[name]]
        return value.float() - self._offsets[name] if name in self._offsets else value

    def files(self) -> list[Path]:
        return sorted(file.path for file in self._model.files)

    def _there(self, name: str) -> str:
        if name not in self._names:
            raise InputError(f"{self._path}: no tensor {name}")
        return self._names[name]

    def _rows(self, kind: Kind) -> dict[str, Tensor]:
        """Return the file's row of each of ours, for tensors whose rows stand in another order."""
        found = {}
        for name, key in rotated(kind, self._names).items():
            there, heads = self._names[name], _count(self._path, self._model, HEADS)
            count = _count(self._path, self._model, SHARED_HEADS, heads) if key == SHARED_HEADS else heads
            rows = self._model.tensors[there].shape[0]
            if rows % (2 * count):
                raise InputError(
                    f"{self._path}: tensor {there} has {rows} rows, expected {count} heads of an even width"
                )
            found[name] = interleaved(count, rows // count).argsort()
        return found


def _kind(path: Path, model: GgufModel) -> Kind:
    value = model.metadata.get(_ARCHITECTURE)
    if value is None or value.type != GGUFValueType.STRING or value.value not in ARCHITECTURES:
        found = "missing" if value is None else shown(repr(value.value))
        raise InputError(
            f"{path}: key {_ARCHITECTURE} is {found}, expected one of {', '.join(ARCHITECTURES)}, "
            "which a merge can start from"
        )
    experts = model.metadata.get(f"{value.value}.{EXPERTS}")
    if experts is not None and experts.value != 0 and value.value in MIXTURES:
        return MIXTURES[value.value]
    return ARCHITECTURES[value.value]


def _names(path: Path, kind: Kind, model: GgufModel) -> dict[str, str]:
    """Return the names that a file should hold, by canonical names. It may lack a head and the attention's
    biases.
    """
    layers = _count(path, model, "block_count")
    if layers > len(model.tensors):
        raise InputError(
            f"{path}: key {kind.architecture}.block_count is {layers}, expected at most "
            f"{len(model.tensors)}, the number of tensors"
        )

    def known(experts: int) -> dict[str, str]:
        biased = kind.may_be_biased and any(name.endswith(".bias") for name in model.tensors)
        found = tensor_names(kind, layers, tied=False, biased=biased, experts=experts)
        return {name: there for name, there in found.items() if name != HEAD or there in model.tensors}

    if not kind.mixed:
        return known(0)
    experts = _count(path, model, EXPERTS)
    # A forged number of experts is told from one of them in each layer, before there are names of all.
    for name, there in known(1).items():
        info = model.tensors.get(there)
        if is_of_expert(name) and (info is None or len(info.shape) != 3 or info.shape[0] != experts):
            found = "missing" if info is None else f"of the shape {list(info.shape)}"
            raise InputError(f"{path}: tensor {there} is {found}, expected {experts} matrices")
    return known(experts)


def _parts(names: Mapping[str, str]) -> dict[str, int]:
    """Return the place of each tensor of an expert along the first axis of the one that the file holds."""
    seen, found = Counter[str](), dict[str, int]()
    for name, there in names.items():
        if is_of_expert(name):
            found[name] = seen[there]
            seen[there] += 1
    return found


def _divisors(kind: Kind) -> tuple[str, ...]:
    """Return the names of the tensors that divide rotations' frequencies."""
    return tuple(SHORT_LONG) if kind.partial else (DIVISORS,)


def _count(path: Path, model: GgufModel, key: str, default: int | None = None) -> int:
    name = f"{model.metadata[_ARCHITECTURE].value}.{key}"
    value = model.metadata.get(name)
    if value is None and default is not None:
        return default
    # A layer has tensors. A number of layers that no file has is forged, and would be looped over.
    if (
        value is None
        or isinstance(value.value, bool)
        or not isinstance(value.value, int)
        or not 0 < value.value <= 2**16
    ):
        raise InputError(
            f"{path}: key {name} is {'missing' if value is None else shown(repr(value.value))}, expected "
            "a number of at least 1"
        )
    return value.value


def _decoded(model: GgufModel, there: str, part: int | None = None) -> Tensor:
    """Return a tensor, or a part of it along its first axis."""
    info, raw = model.tensors[there], model.raw(there)
    if part is None:
        return decoded(raw, info.type, info.shape)
    return decoded(raw.reshape(info.shape[0], -1)[part], info.type, info.shape[1:])


def described(path: Path) -> Path | None:
    """Return the directory that transformers would have for a file, without weights, or None for a file of an
    architecture that no merge starts from, and for one that embeds texts. The directory lasts as long as this
    process.

    Raises InputError for a file that is not whole.
    """
    metadata = GgufModel.open(path).metadata
    value = metadata.get(_ARCHITECTURE)
    if value is None or value.value not in ARCHITECTURES or f"{value.value}.pooling_type" in metadata:
        return None
    return _directory(path.resolve(), path.stat().st_mtime_ns)


_KEPT: list[Scratch] = []
"""The directories of this process, which go with it."""


@cache
def _directory(path: Path, changed: int) -> Path:
    """Return the directory that transformers would have for the file, without weights. It lasts as long as
    this process. `changed` tells a file from an earlier one at the same path.
    """
    model = GgufModel.open(path)
    scratch = Scratch("gguf")
    place = scratch.path
    try:
        kind = _kind(path, model)
        held = _names(path, kind, model)
        write_config(
            place,
            path,
            kind,
            model.metadata,
            model.tensors[held[EMBEDDINGS]].shape[0],
            tied=HEAD not in held,
            biased=any(name.endswith("bias") for name in held),
            scaling={name: _decoded(model, name) for name in _divisors(kind) if name in model.tensors},
        )
        if not write_tokenizer(place, path, model.metadata):
            log.warning("%s: has no tokenizer", path)
    except BaseException:
        scratch.close()
        raise
    _KEPT.append(scratch)
    return place


@cache
def _tell_of_rounding(path: Path, changed: int) -> None:
    """Log a warning for a file whose tensors are on grids, once for each file as it is."""
    tensors = GgufModel.open(path).tensors
    kinds = Counter(info.type.name for info in tensors.values() if info.type not in PLAIN)
    if kinds:
        told = " and ".join(f"{count} on {kind}" for kind, count in kinds.most_common())
        log.warning(
            "%s: of its %d tensors %s, decoded as they are: what rounding took from them is not in the merge",
            path.name,
            len(tensors),
            told,
        )
