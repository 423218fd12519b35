"""Models that can be run as they lie: a written file in its runtime, a directory or a packed checkpoint in
PyTorch.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from epmq_export.errors import InputError
from epmq_export.models import reference
from epmq_export.models.classifiers import Classifier, columns_of, read_classifiers
from epmq_export.models.family import Family, Run, heads_of
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.models import require_no_own_head, require_same_settings
from epmq_export.pipeline.registry import Registry
from epmq_export.pipeline.targets import PACKED
from epmq_export.tensors.checkpoint import Checkpoint, open_checkpoint
from epmq_export.tensors.compatible import require_fit, require_same_vocabulary
from epmq_export.tensors.directory import CONFIG, PACKED_INDEX, WEIGHTS
from epmq_export.tensors.gguf_file import is_gguf
from epmq_export.tensors.gguf_splits import split_paths
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.source import TensorSource, renamed

log = logging.getLogger(__name__)
_TORCH, _DIRECTORY, _PACKED = "torch", "safetensors", "packed"
"""The runtime of what is no written file, and the names of the two things that it runs."""


@dataclass(frozen=True, kw_only=True)
class Runnable:
    """A model that gives outputs for samples."""

    path: Path
    """Where it is, as the user named it."""

    files: Sequence[Path]
    """The files that hold it, the main one first."""

    format: str
    """The name of its format; `packed` for a packed checkpoint."""

    runtime: str
    version: str
    """The version of the runtime."""

    run: Run


def runnable_of(registry: Registry, model: Path, job: Job) -> Runnable:
    """Open a model that is held against a recipe's base: a model directory, a written file, a directory that
    a format wrote, or a packed checkpoint.

    Raises InputError where it is none of these, or does not fit the base.
    """
    _require_there(model)
    _refuse_output(model)
    family, base, packed = job.models.family, job.checkpoints.base, (model / PACKED_INDEX).exists()
    for name in family.exports:
        file = model if model.suffix == f".{name}" and model.is_file() else None
        if model.is_dir() and (model / name).is_dir() and not packed:
            file = registry.formats[name].find(model, family)
        if file is not None:
            family.exports[name].require_model(file)
            _require_settings_beside(registry, file, base)
            written = _written(registry, file, name, family)
            # Heads beside a GGUF file are read by their tasks' names.
            beside = None if is_gguf(file) else registry.described_in(file)
            return written if beside is None else _as_asked(written, read_classifiers(beside), family)
    if packed:
        own = registry.open_family(model)
        if own.name != family.name:
            raise InputError(
                f"{model}: found a {own.name}, expected a {family.name}, as the recipe's base is"
            )
        return _as_asked(_of_packed(model, own, job.device), heads_of(own), family)
    opened = open_checkpoint(model, base, open_gguf=registry.open_gguf, naming_of=registry.naming_of)
    for note in require_same_settings(base, opened, str(model), registry.require_same_settings):
        log.warning("%s", note)
    require_same_vocabulary(base.directory, opened.directory, str(model))
    require_no_own_head(base, opened)
    source = job.models.like_expert(renamed(opened, family.canonical))
    require_fit(job.models.base, source, str(model))
    return _in_torch(model, family, source, _DIRECTORY, job.device, opened.files())


def family_of(registry: Registry, model: Path) -> Family | None:
    """Return the family of a model that stands alone, by the config and tokenizer in it or beside it. None
    for a written file that has neither, or that tells them in a way that only its runtime understands.

    Raises InputError for what is no model.
    """
    _require_there(model)
    _refuse_output(model)
    if model.is_dir():
        return registry.open_family(model)
    if model.suffix.removeprefix(".") not in registry.formats or model.suffix == f".{_DIRECTORY}":
        raise InputError(f"{model}: expected a .gguf or an .onnx file, or the directory of a model")
    try:
        described = registry.described_in(model)
    except InputError as error:
        # The other model may tell it, and a file that is not whole is refused by its runtime.
        log.info("%s", error)
        return None
    return None if described is None else registry.open_family(described)


def runnable_alone(registry: Registry, model: Path, family: Family | None, device: torch.device) -> Runnable:
    """Open a model that stands alone. `family` is its own or, for a written file without a config, that of
    the model that it is compared with, where that one has one.

    Raises InputError for a directory that is no whole model, and for a file that no runtime reads.
    """
    if model.is_dir():
        assert family is not None  # A directory has a config, or it is refused.
        if (model / PACKED_INDEX).exists():
            return _of_packed(model, family, device)
        opened = open_checkpoint(model, open_gguf=registry.open_gguf, naming_of=registry.naming_of)
        return _in_torch(model, family, renamed(opened, family.canonical), _DIRECTORY, device, opened.files())
    name = model.suffix.removeprefix(".")
    if family is not None:
        if name not in family.exports:
            raise InputError(f"{model}: no runtime reads a {family.name} in the format {name}")
        return _written(registry, model, name, family)
    embedder = registry.embedder_of(model)
    if embedder is None:
        raise InputError(
            f"{model}: nothing beside it says how it computes and reads texts, expected {CONFIG} in or "
            "beside one of the two models, or --recipe"
        )
    runtime = registry.runtimes[embedder]
    return Runnable(
        path=model,
        files=split_paths(model),
        format=name,
        runtime=runtime.name,
        version=runtime.version(),
        run=partial(runtime.outputs, model),
    )


def _as_asked(model: Runnable, own: Sequence[Classifier], family: Family) -> Runnable:
    """Return a model that has classifiers of its own with the scores of those that a family has, in their
    order. Raises InputError where it lacks one.
    """
    asked = heads_of(family)
    if not asked or [*own] == [*asked]:
        return model
    columns, places = columns_of(own), list[int]()
    for head in asked:
        found = columns.get(head.task, slice(0))
        if found.stop - (found.start or 0) != len(head.classes):
            there = ", ".join(f"{each.task} ({len(each.classes)} classes)" for each in own) or "none"
            raise InputError(
                f"{model.path}: found the classifiers {there}, expected one of task {head.task} "
                f"({len(head.classes)} classes)"
            )
        places += range(found.start, found.stop)
    return replace(model, run=lambda samples: model.run(samples)[:, places])


def _require_settings_beside(registry: Registry, file: Path, base: Checkpoint) -> None:
    """Raise InputError for a written file with a config of another model beside it. A GGUF file has its own
    settings, and is asked for these.
    """
    if is_gguf(file) or (place := registry.described_in(file)) is None:
        return
    for note in registry.require_same_settings(base.model_directory, place, str(file)):
        log.warning("%s", note)


def _written(registry: Registry, path: Path, format: str, family: Family) -> Runnable:
    """Return a file of a format in the first of the runtimes that read it."""
    runtime = registry.readers(family, format)[0]
    files = [file for file in registry.formats[format].open(path, family).files(family) if file.is_file()]
    return Runnable(
        path=path,
        files=files,
        format=format,
        runtime=runtime.name,
        version=runtime.version(),
        run=family.exports[format].as_read(partial(runtime.outputs, path), path),
    )


def _of_packed(path: Path, family: Family, device: torch.device) -> Runnable:
    packed = Packed(path)
    return _in_torch(path, family, packed, _PACKED, device, packed.files())


def _in_torch(
    path: Path,
    family: Family,
    source: TensorSource,
    format: str,
    device: torch.device,
    files: Sequence[Path],
) -> Runnable:
    """Return tensors that PyTorch runs. Weights stand before the files beside them."""
    return Runnable(
        path=path,
        files=sorted(files, key=lambda file: (file.suffix != Path(WEIGHTS).suffix, file)),
        format=format,
        runtime=_TORCH,
        version=version(_TORCH),
        run=partial(reference.outputs, family, source, device=device),
    )


def _refuse_output(model: Path) -> None:
    """Raise InputError for the output of a run, which has several models."""
    if (model / PACKED / PACKED_INDEX).exists():
        inner = [_model_in(path) for path in sorted(model.iterdir()) if path.is_dir()]
        raise InputError(
            f"{model}: found several models of a run, expected one of {', '.join(map(str, inner))}"
        )


def _model_in(directory: Path) -> Path:
    """Return the GGUF file of a directory, the first of several, or else the directory, which is a model."""
    return min((path for path in directory.glob("*.gguf") if path.is_file()), default=directory)


def _require_there(model: Path) -> None:
    if not model.exists():
        raise InputError(f"{model}: no such file or directory")
