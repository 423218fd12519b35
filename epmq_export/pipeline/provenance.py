"""The provenance of a result: the recipe, the SHA-256 of every input, and the versions."""

import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from epmq_export import files
from epmq_export._version import __version__
from epmq_export.pipeline.models import Checkpoints
from epmq_export.recipe.published import published
from epmq_export.recipe.recipe import Recipe
from epmq_export.tensors.checkpoint import Checkpoint
from epmq_export.tensors.companions import companions
from epmq_export.tensors.gguf_file import is_gguf


def provenance(recipe: Recipe, checkpoints: Checkpoints, data: Mapping[str, str]) -> dict[str, Any]:
    """Return `recipe` as written, but for places of this machine; `inputs` with the SHA-256 of each file that
    decides the result; and `versions`. There is no time and no name of a machine in it.

    `data` are inputs that are no files, with their digests.
    """
    inputs = [
        (path, checkpoints.base)
        for path in sorted({*checkpoints.base.files(), *companions(checkpoints.base.directory)})
    ]
    inputs += [(path, expert) for expert in checkpoints.experts.values() for path in expert.files()]
    hashed = [
        {
            "path": path.name if is_gguf(path) else f"{_name(model)}/{path.relative_to(model.directory)}",
            "sha256": files.sha256(path),
        }
        for path, model in inputs
        if path.is_relative_to(model.directory) or is_gguf(path)
    ]
    hashed += [
        {
            "path": _relative(path, recipe.directory),
            "sha256": files.tree_sha256(path) if path.is_dir() else files.sha256(path),
        }
        for path in recipe.files
    ]
    hashed += [{"path": name, "sha256": digest} for name, digest in data.items()]
    packages = ("torch", "transformers", "tokenizers", "numpy", "safetensors", "pillow")
    return {
        "recipe": published(recipe.source, recipe.directory),
        "inputs": hashed,
        "versions": {
            "epmq-export": __version__,
            **{package: version(package) for package in packages},
        },
    }


def _name(model: Checkpoint) -> str:
    """Return a hub id as it is, and a directory or file by its own name, because its place on this machine
    means nothing elsewhere.
    """
    return Path(model.location).name if Path(model.location).exists() else model.location


def _relative(path: Path, directory: Path) -> str:
    """Return a path relative to a directory, or its name alone where it lies outside."""
    relative = os.path.relpath(path, directory)
    return path.name if relative.startswith("..") else relative
