"""A first recipe, written from what is there: the models' configs, and data of the tasks' names."""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from epmq_export.calibration.method import DEFAULT_METHOD
from epmq_export.data.images import read_pictures
from epmq_export.data.labels import worded
from epmq_export.data.nearby import Nearby, find_data
from epmq_export.data.request import DataRequest
from epmq_export.data.texts import read_texts
from epmq_export.errors import EpmqError, InputError, near_file
from epmq_export.models.family import Family
from epmq_export.pipeline.classifiers import is_classifier
from epmq_export.pipeline.registry import Registry
from epmq_export.recipe.recipe import Recipe, RecipeCalibration
from epmq_export.recipe.values import HUB_ID
from epmq_export.tensors.directory import ADAPTER_CONFIG
from epmq_export.tensors.gguf_file import is_gguf

TODO = "TODO"
"""The word that marks, in the recipe that is written, what its user has to fill in. Nothing is open here."""

SCHEMA = "recipe.schema.json"
"""The schema that editors read, beside the recipe."""

_CLASSES = 50
"""More labels than these are answers in words, or numbers, and no classes."""

_SAMPLES: int = RecipeCalibration.model_fields["samples"].default
_RULES = ("tsvm", "ties", "task_arithmetic", "linear")
"""The rules that a first recipe tells of."""

_METHOD: str = Recipe.model_fields["merge_method"].default


@dataclass(frozen=True)
class _Data:
    """The data of one role of a task, read."""

    count: int
    """The number of distinct samples."""

    labels: Sequence[str]
    """The names of the classes, or the distinct labels; empty where not every sample has one."""


@dataclass(frozen=True)
class _Writer:
    """What the lines of a task depend on besides its own data."""

    family: Family | None
    folder: Path
    """The folder of the recipe, which its paths are relative to."""

    data: Path
    """The folder where data are expected that were not found."""

    @property
    def reads(self) -> str:
        return "images" if self.family is not None and self.family.images is not None else "texts"


def first_recipe(
    registry: Registry, base: str, experts: Sequence[str], data: Path | None, recipe: Path
) -> str:
    """Return the text of a recipe to be written at `recipe`, with comments; what is not known is marked TODO.

    Models are directories, relative to where the program runs, or ids of the hub. `data` is the folder to
    look for data in; by default they are looked for beside the experts and the recipe. Raises InputError for
    a directory that is not there, and for a base of no known family.
    """
    if data is not None and not data.is_dir():
        raise InputError(f"{data}: no such directory")
    folder = recipe.absolute().parent
    family = _family(registry, Path(base).expanduser()) if _local(base) else None
    writer = _Writer(family, folder, data or folder / "data")
    blocks: list[str] = []
    samples = _SAMPLES
    for name, expert in zip(_names(experts), experts, strict=True):
        found = find_data(name, _places(expert, data, folder), writer.reads == "images")
        lines, left = _task(writer, name, expert, found)
        samples = min(samples, left)
        blocks += lines
    return "\n".join([*_head(writer, base, recipe.name), *blocks, "", *_calibration(samples)]) + "\n"


def _family(registry: Registry, base: Path) -> Family | None:
    """Return the family of a directory, or of a GGUF file that says how it computes."""
    place = base if base.is_dir() else registry.described_in(base)
    return None if place is None else registry.open_family(place)


def _head(writer: _Writer, base: str, name: str) -> Iterator[str]:
    family = writer.family
    kind = f"not on this machine, so {TODO}: look whether its family is one that docs/recipe.md lists"
    if family is not None:
        what = "reads images" if family.images else "writes text" if family.language else "embeds texts"
        kind = f"family {family.name}, which {what}"
    yield f"# yaml-language-server: $schema={SCHEMA}"
    yield f"# A first recipe, written by `epmq init`. {TODO} marks what only you know."
    yield "#"
    yield f"#     epmq run --dry-run {name}      # what is here, what would be written, memory and time"
    yield f"#     epmq run {name} -o out"
    yield ""
    yield f"# The model that every expert started from: {kind}."
    yield f"base_model: {_model(base, writer.folder)}"
    yield ""
    yield "# How the experts become one model before the calibration pulls it back towards each of them:"
    yield f"# {', '.join(_RULES)}, or another rule of docs/recipe.md."
    yield f"merge_method: {_METHOD}"
    yield ""
    yield f"# A task has an expert, unlabelled {writer.reads} to calibrate on, and labelled ones to judge by."
    yield "tasks:"


def _task(writer: _Writer, name: str, expert: str, found: Nearby) -> tuple[list[str], int]:
    """Return the lines of a task, and how many samples may be calibrated on so that some are left to judge
    by.
    """
    kind = ""
    if not _local(expert):
        kind = f"  # {TODO}: not on this machine, so it is taken for an id of the hub"
    elif (Path(expert).expanduser() / ADAPTER_CONFIG).is_file():
        kind = "  # a LoRA adapter"
    lines = [f"  {_yaml(name)}:", f"    expert: {_model(expert, writer.folder)}{kind}"]
    calibration, told = _read(writer, found.calibration, "train")
    if found.calibration is None:
        lines.append(f"    # {TODO}: no {writer.reads} were found. Put them here, or write where they are.")
        ending = "" if writer.reads == "images" else ".txt"
        lines.append(f"    calibration: {_path(writer.data / f'{name}{ending}', writer.folder)}")
    else:
        lines.append(f"    calibration: {_path(found.calibration, writer.folder)}  # {told}")
    if found.evaluation is None:
        lines.append(
            f"    # No labelled {writer.reads} were found: it is judged on what is left over, by its"
        )
        lines.append("    # outputs beside the reference's.")
        labelled = "test.tsv      # label<TAB>text"
        if writer.reads == "images":
            labelled = "test          # a folder of images for each label"
        lines.append(f"    # evaluation: {labelled}")
        left = _SAMPLES if calibration is None else max(1, calibration.count // 2)
        if calibration is not None and calibration.count < 2:
            lines.append(f"    # {TODO}: one sample is not enough, some are needed to judge by.")
        return lines, left if calibration is not None and calibration.count <= _SAMPLES else _SAMPLES
    evaluation, told = _read(writer, found.evaluation, "test")
    lines.append(f"    evaluation: {_path(found.evaluation, writer.folder)}  # {told}")
    if evaluation is not None:
        lines += _labels(writer, evaluation.labels, found.labels, _classifies(writer, expert))
    return lines, _SAMPLES


def _classifies(writer: _Writer, expert: str) -> bool:
    """Return whether an expert that is here is a classifier whose own head the task is read by."""
    known = writer.family is not None and writer.family.classifiers is not None
    return known and _local(expert) and is_classifier(Path(expert).expanduser())


def _labels(writer: _Writer, labels: Sequence[str], file: Path | None, own: bool) -> Iterator[str]:
    """Yield the lines on the labels of a task. `own` says whether its expert has a head of its own."""
    family = writer.family
    if own and file is not None:
        yield f"    labels: {_path(file, writer.folder)}  # as the data name and count its expert's classes"
    elif own:
        yield "    # Its expert's own head tells the classes, by the names in its config.json. Where the data"
        yield "    # count them in another order, write the names here in that order; where they have other"
        yield "    # names, write these, in the order of the head."
        yield "    # labels: [...]"
    elif file is not None:
        yield f"    labels: {_path(file, writer.folder)}"
    elif not labels:
        yield "    # It has no labels, so outputs are compared."
    elif family is not None and family.language is not None:
        yield from _of_language(labels)
    elif family is not None and family.zero_shot is None:
        yield f"    # {TODO}: its labels need a linear head, weight [classes, width] and bias [classes]:"
        yield "    # head: heads.safetensors"
        yield f"    # labels: {_yaml(list(labels))}"
    elif len(labels) > _CLASSES:
        yield f"    # It has {len(labels)} labels, too many for classes, so outputs are compared."
    else:
        yield "    # A sample gets the label whose text the base embeds nearest to it."
        yield f"    # {TODO}: write what each label means."
        yield f"    labels: {_yaml({name: worded(name) for name in labels})}"
        if writer.reads == "images":
            yield '    templates: ["a photo of {}."]'


def _of_language(labels: Sequence[str]) -> Iterator[str]:
    """Yield the lines on the labels of a language model's task."""
    yield f"    # {TODO}: the prompt that the expert was trained with; {{}} stands for a text."
    yield '    prompt: "{}"'
    yield "    # chat: true      # puts the prompt into the model's own chat template"
    if len(labels) <= _CLASSES:
        yield f"    # The model chooses the likeliest answer. {TODO}: write the answers as the expert does."
        yield f"    labels: {_yaml(dict(zip(labels, labels, strict=True)))}"
    elif all(_is_number(label) for label in labels):
        yield "    metric: spearman      # how its numbers agree with the right ones in their order"
    else:
        yield "    metric: exact_match   # the share of answers that are the right one, word for word"


def _calibration(samples: int) -> Iterator[str]:
    yield "calibration:"
    yield f"  method: {DEFAULT_METHOD}"
    fewer = "" if samples == _SAMPLES else f"; {_SAMPLES} is usual, but some must be left to judge by"
    yield f"  samples: {samples}  # of each task{fewer}"
    yield "  # effort: best  # in place of samples: nearer to the experts, and many times as long"
    yield ""
    yield "quantization:"
    yield "  grid: Q4_0"


def _read(writer: _Writer, place: Path | None, split: str) -> tuple[_Data | None, str]:
    """Return data with a word on them, or None with the reason why they cannot be read."""
    if place is None:
        return None, ""
    try:
        data = _pictures(place, split) if writer.reads == "images" else _texts(place, split)
    except EpmqError as error:
        return None, f"{TODO}: {' '.join(str(error).split())}"
    labelled = f" with {len(data.labels)} labels" if data.labels else ""
    return data, f"{data.count} {writer.reads}{labelled}"


def _texts(place: Path, split: str) -> _Data:
    found = read_texts(DataRequest(path=place), split)
    labels = found.labels or [None]
    count = len({repr(text.content) for text in found.samples})
    if any(label is None for label in labels):
        return _Data(count, [])
    return _Data(count, found.names or sorted({str(label) for label in labels}))


def _pictures(place: Path, split: str) -> _Data:
    found = read_pictures(DataRequest(path=place), split)
    return _Data(len({picture.digest for picture in found.samples}), found.names or [])


def _names(experts: Sequence[str]) -> list[str]:
    """Return the names of tasks: those of the experts' folders, with a number where one comes again."""
    found: list[str] = []
    for expert in experts:
        path = Path(expert).expanduser()
        name = _absolute(path).name if path.exists() else expert.partition("@")[0].rpartition("/")[2]
        count = 2
        base = name
        while name in found:
            name, count = f"{base}-{count}", count + 1
        found.append(name)
    return found


def _places(expert: str, data: Path | None, folder: Path) -> list[Path]:
    """Return the folders to look for a task's data in, the likeliest first."""
    if data is not None:
        return [data]
    path = Path(expert).expanduser()
    places = [folder / "data", folder]
    if path.is_dir():
        own = _absolute(path)
        places = [own, own.parent / "data", own.parent.parent / "data", folder / "data", own.parent, folder]
    return list(dict.fromkeys(places))


def _local(location: str) -> bool:
    """Return whether a model is a directory or a GGUF file. Raises InputError for what is neither, nor an id
    of the hub.
    """
    path = Path(location).expanduser()
    if path.is_dir() or is_gguf(path):
        return True
    mistyped = path.parent != Path() and path.parent.is_dir()
    if path.exists() or mistyped or not HUB_ID.fullmatch(location):
        what = "expected the directory of a model" if path.exists() else "no such directory"
        raise InputError(f"{location}: {what}{near_file(path, location)}")
    return False


def _model(location: str, folder: Path) -> str:
    """Return a model's location as the recipe names it."""
    if not _local(location):
        return _yaml(location)
    path = _relative(Path(location).expanduser(), folder)
    return _yaml(path if path.startswith((".", "/")) else f"./{path}")


def _path(path: Path, folder: Path) -> str:
    return _yaml(_relative(path, folder))


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(_absolute(path), _absolute(folder))).as_posix()


def _absolute(path: Path) -> Path:
    """Return an absolute path without `..`, and with links as the user named them."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - `resolve` follows links


def _yaml(value: str | Sequence[str] | Mapping[str, str]) -> str:
    """Return a value as YAML writes it in one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, allow_unicode=True, width=sys.maxsize, sort_keys=False
    )
    return text.removesuffix("...\n").strip()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
