"""ONNX models that this project wrote, read back."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from epmq_export.models.family import Family
from epmq_export.models.format import StoredTensor
from epmq_export.tensors.packed import Packed
from formats.onnx import external as onnx_external
from formats.onnx.companions import (
    companion_differences,
    files_beside,
    weights_beside,
)
from formats.onnx.metadata import key_differences, metadata_of
from formats.onnx.read import Skeleton, read_model, tensors_of
from formats.onnx.spec import specs_of
from formats.weights_beside import weights_differences

QUANTISED, PLAIN = "_q4.onnx", ".onnx"
"""The endings of models, which transformers.js asks for: q4, and fp32 where nothing is on a grid."""


class WrittenOnnx:
    """The models of a family in one folder. Each is read once, a tensor at a time, and only its skeleton is
    kept.
    """

    def __init__(self, path: Path, family: Family) -> None:
        """Take `path`, which is the model that tasks are judged by. Nothing is read yet."""
        self.path, self._family = path, family
        self._skeletons: dict[Path, Skeleton] = {}

    def files(self, family: Family) -> Mapping[Path, Sequence[Family]]:
        """Return each of the family's models beside the one at `path`, with the file of its weights where it
        has one. A file of another name is returned alone.
        """
        models = _models(self.path, family)
        weights: dict[Path, Sequence[Family]] = {
            beside: [] for model in models if (beside := onnx_external.beside(model)).is_file()
        }
        return {**models, **weights}

    def tensors(self) -> Iterator[StoredTensor]:
        for file in self._models:
            yield from self._tensors(file)

    def differences(self, packed: Packed) -> list[str]:
        """Return a sentence for each difference in metadata, graph and companions. The graph is compared by
        the digest in the metadata, so that the exporter of the version that wrote the file is not needed.
        """
        skeletons = {file: self._skeleton(file) for file in self._models}
        sentences = [
            f"{onnx_external.beside(file).name} holds nothing of {file.name}, which has its weights in itself"
            for file, skeleton in skeletons.items()
            if onnx_external.beside(file).exists() and not skeleton.external
        ]
        sentences += [
            f"{file.name}: {half[0]} is float16 (tensors like it: {len(half)}), expected a weight that only "
            "a Cast reads: a GPU without half precision can do nothing else with it"
            for file, skeleton in skeletons.items()
            if (half := skeleton.half)
        ]
        for skeleton in skeletons.values():
            expected = metadata_of(packed, skeleton.tensors, skeleton.digest)
            sentences += key_differences(skeleton.metadata, expected)
        ending = QUANTISED if self.path.name.endswith(QUANTISED) else PLAIN
        folder = self.path.parent.parent
        apart = [file.relative_to(folder).as_posix() for file, found in skeletons.items() if found.external]
        wanted = files_beside(packed.directory, self._family, ending, apart)
        sentences += weights_differences(folder, weights_beside(packed, self._family))
        return sentences + companion_differences(folder, wanted)

    def exact(self, file: Path, scratch: Path) -> Path:
        """Return the file itself, because a session computes exactly if it is asked to."""
        return file

    def notes(self) -> dict[str, Any]:
        """Return `linears`: the number of quantised linears in the files."""
        return {"linears": sum(self._skeleton(file).linears for file in self._models)}

    @cached_property
    def _models(self) -> Sequence[Path]:
        return [*_models(self.path, self._family)]

    def _tensors(self, file: Path) -> Iterator[StoredTensor]:
        opened = read_model(file)
        try:
            yield from tensors_of(opened)
        finally:  # The file is not read again, even where a tensor in it is wrong.
            self._skeletons[file] = Skeleton.of(opened.model)

    def _skeleton(self, file: Path) -> Skeleton:
        if file not in self._skeletons:
            self._skeletons[file] = Skeleton.of(read_model(file).model)
        return self._skeletons[file]


def _models(path: Path, family: Family) -> dict[Path, Sequence[Family]]:
    """Return the family's models, each with the towers that a runtime can run it for."""
    specs = specs_of(family)
    main = next(iter(specs))
    if not path.name.startswith(main):
        return {path: [family]}
    ending = path.name.removeprefix(main)
    return {path.with_name(f"{stem}{ending}"): list(spec.towers) for stem, spec in specs.items()}
