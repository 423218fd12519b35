"""The inventory of a recipe: what it names, and which of it is on this machine. It looks into directories and
the cache of the hub, and never uses the network.
"""

from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from epmq_export.files import read_json
from epmq_export.recipe.recipe import Recipe
from epmq_export.recipe.task import RecipeData
from epmq_export.tensors.checkpoint import OpenGguf
from epmq_export.tensors.directory import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CONFIG, SHARD_INDEX, WEIGHTS
from epmq_export.tensors.gguf_file import is_gguf


@dataclass(frozen=True)
class Found:
    """A model or data set of the recipe."""

    role: str
    """Its part in the recipe: `base`, `expert of sst2`, `calibration of sst2`, ..."""

    name: str
    """Its name as the recipe has it. A data file has its path: relative to the recipe where it lies in the
    recipe's directory, else absolute.
    """

    directory: str | None
    """The place where it is, or where a part of it is. None where nothing of it is here."""

    whole: bool
    """Whether all of it is here. Otherwise a run downloads it."""

    @property
    def sentence(self) -> str:
        """Return in words whether it is there."""
        if self.whole:
            return "here"
        return (
            "not here: will be downloaded"
            if self.directory is None
            else "not here but for its config: will be downloaded"
        )


def models(recipe: Recipe, open_gguf: OpenGguf) -> list[Found]:
    """Return the base, then the experts in their order, each with the tasks that it is the expert of."""
    tasks: dict[str, list[str]] = {}
    for name, task in recipe.tasks.items():
        tasks.setdefault(recipe.location(task.expert), []).append(name)
    found = [_model("base", recipe.base_model, recipe.location(recipe.base_model), open_gguf)]
    for model in recipe.experts:
        location = recipe.location(model.model)
        of = f" of {', '.join(tasks[location])}" if location in tasks else ""
        found.append(_model(f"expert{of}", model.model, location, open_gguf))
    return found


def data(recipe: Recipe) -> list[Found]:
    """Return each file, directory and data set of the tasks once, in their order. A data set counts as here
    where the cache knows its repository.
    """
    found: dict[tuple[str, str], Found] = {}
    tasks: dict[tuple[str, str], list[str]] = {}
    for name, task in recipe.tasks.items():
        for (key, *_), place in task.data:
            path = place.path if isinstance(place, RecipeData) else place
            if path is not None:
                beside = path.is_relative_to(recipe.directory)
                shown = str(path.relative_to(recipe.directory) if beside else path)
                of = tasks.setdefault((str(key), str(path)), [])
                of += [] if name in of else [name]
                found[str(key), str(path)] = Found(
                    role=f"{key} of {', '.join(of)}", name=shown, directory=str(path), whole=True
                )
            else:
                assert isinstance(place, RecipeData) and place.dataset is not None
                where = _snapshot(place.dataset, "dataset")
                shown = " ".join(part for part in (place.dataset, place.config, place.split) if part)
                found[str(key), f"{name} {shown}"] = Found(
                    role=f"{key} of {name}",
                    name=shown,
                    directory=None if where is None else str(where),
                    whole=where is not None,
                )
    return list(found.values())


def _model(role: str, name: str, location: str, open_gguf: OpenGguf) -> Found:
    if is_gguf(Path(location)):
        directory = str(open_gguf(location, Path(location)).directory)
        return Found(role=role, name=name, directory=directory, whole=True)
    if "+" in location and not Path(location).is_dir():
        parts = [_model(role, part, part, open_gguf) for part in location.split("+", 1)]
        whole = all(part.whole for part in parts)
        return Found(role=role, name=name, directory=parts[0].directory, whole=whole)
    place = _directory(location)
    # Only a snapshot of the hub may be incomplete. A user's own directory counts as whole, so that a forecast
    # refuses in it whatever a run would refuse.
    own = _is_directory(location)
    return Found(
        role=role,
        name=name,
        directory=None if place is None else str(place),
        whole=place is not None and (own or _has_weights(place)),
    )


def _directory(location: str) -> Path | None:
    return Path(location) if _is_directory(location) else _snapshot(location, "model")


def _is_directory(location: str) -> bool:
    """Return whether a location is a directory. One that is not absolute is an id of the hub."""
    return Path(location).is_absolute() and Path(location).is_dir()


def _snapshot(location: str, kind: str) -> Path | None:
    """Return the directory of a repository in the cache of the hub, or None."""
    repository, _, revision = location.partition("@")
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository, repo_type=kind, revision=revision or None, local_files_only=True
            )
        )
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        return None


def _has_weights(directory: Path) -> bool:
    if (directory / SHARD_INDEX).is_file() and not (directory / WEIGHTS).is_file():
        placed = read_json(directory / SHARD_INDEX).get("weight_map")
        return isinstance(placed, dict) and all(
            (directory / str(shard)).is_file() for shard in placed.values()
        )
    if (directory / WEIGHTS).is_file():
        return (directory / CONFIG).is_file()
    return (directory / ADAPTER_CONFIG).is_file() and (directory / ADAPTER_WEIGHTS).is_file()


def local_location(found: Found, location: str) -> str:
    """Return the location that `open_checkpoint` opens without the network, for a model that is here."""
    if is_gguf(Path(location)):
        return location
    if "+" not in location or Path(location).exists():
        assert found.directory is not None
        return found.directory
    return "+".join(
        part if is_gguf(Path(part)) else str(_directory(part) or part) for part in location.split("+", 1)
    )
