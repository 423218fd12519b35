"""packed.json, the index of a packed checkpoint: what was calibrated, how, and from what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.grids import GRIDS
from epmq_export.tensors.about import About
from epmq_export.tensors.description import PROVENANCE

FORMAT = "epmq-packed-1"


@dataclass(frozen=True)
class PackedIndex:
    """The content of packed.json, checked."""

    family: str
    """The name of the model family that the weights belong to."""

    method: Mapping[str, Any]
    """The settings of the calibration method."""

    recipe: Mapping[str, Any]
    """The recipe as the user wrote it."""

    inputs: list[Mapping[str, str]]
    """`path` and `sha256` of every file that decided the result."""

    versions: Mapping[str, str]
    """The version of each package that decided the result, by the package's name."""

    about: About = field(default_factory=lambda: About("model"))
    """The model's name, and the models that it comes from."""

    layers: list[Mapping[str, Any]] = field(default_factory=list)
    """The loss of each tensor's solve: the fields of `calibration.calibrator.LayerLoss`."""

    notes: list[str] = field(default_factory=list)
    """What was not stored as the recipe asked, a sentence each."""

    grids: Mapping[str, str] = field(default_factory=dict)
    """The grid of each tensor that is on one, by the tensor's canonical name."""

    split_bytes: int | None = None
    """The most bytes of tensors that one file of a format that splits models may hold; None: one file."""

    tune: list[Mapping[str, Any]] | None = None
    """The trials of the search for the method's numbers; None where there was none."""

    refine: Mapping[str, Any] | None = None
    """The gain of the distillation of the whole model. None where there was none."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Return the parts that say where the weights come from, by the names of `PROVENANCE`."""
        return {key: getattr(self, key) for key in PROVENANCE}

    @property
    def search(self) -> dict[str, Any]:
        """Return what `tune` and `refine` did, by their names, where they ran."""
        return {key: value for key in ("tune", "refine") if (value := getattr(self, key)) is not None}

    def as_dict(self) -> dict[str, Any]:
        """Return the content of packed.json, in the order in which it is written."""
        content: dict[str, Any] = {"format": FORMAT, "family": self.family, "about": self.about.as_dict()}
        content["method"] = self.method
        content |= {"recipe": self.recipe, "inputs": self.inputs, "versions": self.versions, **self.search}
        content |= {} if self.split_bytes is None else {"split_bytes": self.split_bytes}
        return content | {"notes": self.notes, "layers": self.layers, "grids": self.grids}

    @classmethod
    def read(cls, path: Path) -> "PackedIndex":
        """Read packed.json.

        Raises InputError, naming the key, what was found and what was expected, for a file that is absent or
        no JSON object, for a key that is missing or of the wrong type, and for a grid that there is not.
        """
        content = read_json(path)
        if content.get("format") != FORMAT:
            raise InputError(f"{path}: format is {content.get('format')!r}, expected {FORMAT!r}")
        for key, (kind, expected, needed) in _KEYS.items():
            if key not in content and needed:
                raise InputError(f"{path}: key {key} is missing, expected {expected}")
            if key in content and (not isinstance(content[key], kind) or isinstance(content[key], bool)):
                raise InputError(f"{path}: {key} is {content[key]!r:.80}, expected {expected}")
        _require_items(path, content)
        known = {key: content[key] for key in _KEYS if key in content}
        if "about" in known:
            try:
                known["about"] = About.of(known["about"])
            except ValueError as error:
                raise InputError(f"{path}: about: {error}") from None
        return cls(**known)


_OBJECT = (dict, "an object", True)
_KEYS: Mapping[str, tuple[type, str, bool]] = {
    "family": (str, "the name of a family", True),
    "about": (dict, "an object", False),
    "method": _OBJECT,
    "recipe": _OBJECT,
    "inputs": (list, "a list of objects with path and sha256", True),
    "versions": (dict, "an object from packages to versions", True),
    "layers": (list, "a list of objects", True),
    "notes": (list, "a list of sentences", True),
    "grids": (dict, "an object from tensors to grids", True),
    "split_bytes": (int, "a number of bytes", False),
    "tune": (list, "a list of objects", False),
    "refine": (dict, "an object", False),
}


def _require_items(path: Path, content: Mapping[str, Any]) -> None:
    """Raise InputError for a list or object whose items are not what `PackedIndex` says."""
    for name, grid in content["grids"].items():
        if not isinstance(grid, str) or grid not in GRIDS:
            raise InputError(f"{path}: tensor {name} is on grid {grid!r}, expected one of {', '.join(GRIDS)}")
    for i, entry in enumerate(content["inputs"]):
        if not isinstance(entry, dict) or not all(
            isinstance(entry.get(key), str) for key in ("path", "sha256")
        ):
            raise InputError(f"{path}: inputs[{i}] is {entry!r:.80}, expected an object with path and sha256")
    for key, kind, expected in (("layers", dict, "an object"), ("notes", str, "a sentence")):
        for i, entry in enumerate(content[key]):
            if not isinstance(entry, kind):
                raise InputError(f"{path}: {key}[{i}] is {entry!r:.80}, expected {expected}")
    for name, version in content["versions"].items():
        if not isinstance(version, str):
            raise InputError(f"{path}: versions.{name} is {version!r:.80}, expected a version")
    if content.get("split_bytes", 1) < 1:
        raise InputError(f"{path}: split_bytes is {content['split_bytes']}, expected at least 1")
