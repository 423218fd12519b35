"""A GGUF model in several files, as llama.cpp names and reads them: NAME-00001-of-0000N.gguf has the
metadata, and the others have tensors only.

Each file says its number, the count of files, and how many tensors the model has. The model is opened by its
first file.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGUFValueType
from numpy.typing import NDArray

from epmq_export.errors import InputError
from epmq_export.tensors.gguf_file import GgufFile, TensorInfo, Value, shown

NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
KEYS = (NUMBER, COUNT, TENSORS)
_TYPES = {NUMBER: GGUFValueType.UINT16, COUNT: GGUFValueType.UINT16, TENSORS: GGUFValueType.INT32}
_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL | re.ASCII)
# The most files that a model may have: their count is a UINT16.
MOST = 2**16 - 1


def split_name(stem: str, number: int, count: int) -> str:
    """Return the name of the file with this number, counted from 0."""
    return f"{stem}-{number + 1:05d}-of-{count:05d}.gguf"


def is_later_split(path: Path) -> bool:
    """Return whether a file is named as one of several, and not as the first, which stands for all."""
    named = _NAME.fullmatch(path.name)
    return named is not None and int(named[2]) != 1


def split_keys(number: int, count: int, tensors: int) -> dict[str, Value]:
    """Return the metadata entries that mark a file as one of several."""
    return {key: Value(_TYPES[key], value) for key, value in zip(KEYS, (number, count, tensors), strict=True)}


def split_paths(path: Path) -> list[Path]:
    """Return the paths of the files of the model at `path`. A path that is named as the first of several
    stands for all of them.
    """
    named = _NAME.fullmatch(path.name)
    if named is None or int(named[2]) != 1:
        return [path]
    return [
        path,
        *(path.with_name(split_name(named[1], number, int(named[3]))) for number in range(1, int(named[3]))),
    ]


def model_bytes(path: Path) -> int:
    """Return the bytes of all files of the model at `path` that are there."""
    return sum(each.stat().st_size for each in split_paths(path) if each.is_file())


@dataclass(frozen=True)
class GgufModel:
    """A model's files as one: the metadata of the first file, and the tensors of all in the order of the
    files.
    """

    path: Path
    files: list[GgufFile]
    holders: dict[str, GgufFile]

    @classmethod
    def open(cls, path: Path) -> "GgufModel":
        """Open the files of the model at `path`, its first or only file.

        Raises InputError where a file is not whole and well-formed, where `path` is a later file of a model,
        or where the files do not belong together.
        """
        first = GgufFile.open(path)
        number, count, tensors = _split(first)
        if number:
            raise InputError(
                f"{path}: is file {number + 1} of a model in {count}, expected the first of them"
            )
        paths = split_paths(path)
        if count > 1 and len(paths) != count:
            raise InputError(
                f"{path}: says that it is the first of {count} files of a model, expected a name that "
                f"ends in {split_name('', 0, count)}"
            )
        files = [first, *(GgufFile.open(each) for each in paths[1:count])]
        holders: dict[str, GgufFile] = {}
        for index, file in enumerate(files):
            if _split(file) != (index, count, tensors):
                found = ", ".join(
                    f"{key} {shown(repr(file.metadata[key].value)) if key in file.metadata else 'missing'}"
                    for key in KEYS
                )
                raise InputError(
                    f"{file.path}: has {found}, expected {index}, {count} and {tensors} as {path.name} says"
                )
            if twice := next((name for name in file.tensors if name in holders), None):
                raise InputError(
                    f"{file.path}: tensor {shown(twice)} stands in {holders[twice].path.name} too, "
                    "expected it once"
                )
            holders |= dict.fromkeys(file.tensors, file)
        if count > 1 and len(holders) != tensors:
            raise InputError(f"{path}: says that its files hold {tensors} tensors, they hold {len(holders)}")
        return cls(path, files, holders)

    @property
    def metadata(self) -> dict[str, Value]:
        return self.files[0].metadata

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        return {name: file.tensors[name] for name, file in self.holders.items()}

    def raw(self, name: str) -> NDArray[np.uint8]:
        """Return the bytes of a tensor, uint8 [size], mapped from the file and not read."""
        return self.holders[name].raw(name)


def _split(file: GgufFile) -> tuple[int, int, int]:
    """Return the number of this file, counted from 0, the count of files, and the number of tensors in all. A
    model of one file gives (0, 1, -1).
    """
    found = [file.metadata.get(key) for key in KEYS]
    if found == [None, None, None]:
        return 0, 1, -1
    for key, value in zip(KEYS, found, strict=True):
        if value is None or value.type != _TYPES[key] or value.value < 0:
            what = "missing" if value is None else f"{shown(repr(value.value))} ({value.type.name})"
            raise InputError(
                f"{file.path}: key {key} is {what}, expected a number as {_TYPES[key].name}, as a model "
                "in several files has it"
            )
    number, count, tensors = (int(value.value) for value in found if value is not None)
    return (number, count, tensors) if count > 1 else (0, 1, -1)
