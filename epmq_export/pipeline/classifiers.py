"""The classifiers among a recipe's experts: each brings the head of its own task."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from epmq_export.data.labels import Order
from epmq_export.errors import InputError, RecipeError
from epmq_export.files import read_json
from epmq_export.models.classifiers import PREFIX, Classifier
from epmq_export.models.family import Family, heads_of
from epmq_export.recipe.recipe import Recipe
from epmq_export.tensors.checkpoint import Checkpoint
from epmq_export.tensors.directory import ADAPTER_CONFIG, CONFIG
from epmq_export.tensors.naming import Naming
from epmq_export.tensors.source import Joined, Renamed, TypedSource

log = logging.getLogger(__name__)

_CLASSES, _ADAPTER = ("ForSequenceClassification", "ForImageClassification"), "SEQ_CLS"
"""The ends of the names of classifiers' classes, and how an adapter's config names its task."""

_OF_PICTURES = "ForImageClassification"
"""A part of the names of the classes of pictures' classifiers, those with other heads among them."""

_FEW = 8
"""The most classes that a sentence names."""


def with_classifiers(
    recipe: Recipe, family: Family, experts: Mapping[str, Checkpoint]
) -> tuple[Family, TypedSource | None]:
    """Return the family that has the heads of the tasks' experts, and the heads' tensors under canonical
    names; the family as it is and None where no expert is a classifier.

    `experts` are those that are here, by `Recipe.location`. A task that has a `head` or `templates` is read
    by these. Raises RecipeError where only some tasks are classified, and for labels that are not the head's;
    InputError for an expert without the head that its config names.
    """
    part = family.classifiers
    here = {name: experts.get(recipe.location(task.expert)) for name, task in recipe.tasks.items()}
    found = {
        name: expert
        for name, expert in here.items()
        if expert is not None
        and recipe.tasks[name].head is None
        and not recipe.tasks[name].templates
        and is_classifier(expert.directory)
    }
    if part is None or not found:
        _tell_left_out(recipe, family, here, found)
        return family, None
    if others := [name for name, expert in here.items() if expert is not None and name not in found]:
        raise _read_otherwise(recipe, others[0], next(iter(found)))
    for expert in found.values():
        _require_judged(expert, part.parts)
    heads, tensors = _heads(recipe, found, part.parts)
    return part.read_by(heads), tensors


def _tell_left_out(
    recipe: Recipe, family: Family, here: Mapping[str, Checkpoint | None], found: Collection[str]
) -> None:
    """Log a warning for each task whose expert has a head of its own that the family has no place for:
    `found`, and those whose experts classify pictures in another way.
    """
    pictures = {
        name
        for name, expert in here.items()
        if expert is not None and any(_OF_PICTURES in each for each in _architectures(expert.directory))
    }
    else_read = "; the key head reads it, of a file" if family.images and family.zero_shot is None else ""
    for name in here:
        if name in found or (name in pictures and recipe.tasks[name].head is None):
            log.warning(
                "task %s: its expert is a classifier whose own head is left out, as no such head of a %s is "
                "read: the task reads the model's outputs%s",
                name,
                family.name,
                else_read,
            )


def merged_heads(
    recipe: Recipe, naming: Naming, experts: Mapping[str, Checkpoint]
) -> tuple[list[Classifier], TypedSource | None]:
    """Return the heads that a merge's experts bring, and their tensors under canonical names; none and None
    where no expert is a classifier. A head is called as its task or, where a recipe has none, as its model.

    `experts` are those of `Recipe.location`, and `naming` is the base's. Raises RecipeError for labels that
    are not the head's, and InputError for an expert without the head that its config names.
    """
    if naming.classifier is None:
        return [], None
    named = {name: recipe.location(task.expert) for name, task in recipe.tasks.items()}
    named = named or _by_name(recipe)
    found = {
        name: experts[location]
        for name, location in named.items()
        if location in experts and is_classifier(experts[location].directory)
    }
    return _heads(recipe, found, naming.classifier) if found else ([], None)


def _by_name(recipe: Recipe) -> dict[str, str]:
    """Return the locations of a recipe's experts by the last parts of their names, or by the whole names
    where two share one.
    """
    names = [model.model for model in recipe.experts]
    last = [name.rstrip("/").rpartition("/")[2] for name in names]
    return dict(zip(last if len({*last}) == len(last) else names, map(recipe.location, names), strict=True))


def _heads(
    recipe: Recipe, experts: Mapping[str, Checkpoint], parts: Mapping[str, str]
) -> tuple[list[Classifier], TypedSource]:
    """Return the heads of experts, by the names of their tasks, and the tensors of all of them."""
    heads, tensors = list[Classifier](), list[TypedSource]()
    for place, (name, expert) in enumerate(experts.items()):
        head = _head(expert, parts)
        labels = recipe.tasks[name].labels if name in recipe.tasks else None
        classes = _classes(recipe, name, expert, labels or {}, head.shape("out.bias")[0])
        heads.append(Classifier(name, classes))
        tensors.append(Renamed(head, {f"{PREFIX}{place}.{each}": each for each in parts}))
    return heads, Joined(tensors)


def _read_otherwise(recipe: Recipe, name: str, classified: str) -> RecipeError:
    """Return the error for a task that is not read by a classifier, beside one that is."""
    task = recipe.tasks[name]
    key = "head" if task.head is not None else "templates" if task.templates else "expert"
    what = "an expert that is no classifier" if key == "expert" else "it set"
    return recipe.mistake(
        ("tasks", name, key),
        f"found {what}, expected a classifier and nothing else to read it by, as the expert of task "
        f"{classified} is one: all tasks read the same outputs",
    )


def classifier_notes(family: Family) -> list[str]:
    """Return a sentence for each task that is read by its expert's own classifier."""
    notes = []
    for head in heads_of(family):
        named = f" ({', '.join(head.classes)})" if len(head.classes) <= _FEW else ""
        gives = "which gives a number" if head.numbers else f"of {len(head.classes)} classes{named}"
        notes.append(f"task {head.task}: read by its expert's own classifier, {gives}")
    return notes


def is_classifier(directory: Path) -> bool:
    """Return whether the model or adapter in a directory says of itself that it classifies texts or pictures.
    peft knows no task of pictures: an adapter of one says its model's class, and that it saves modules whole.
    """
    adapter = directory / ADAPTER_CONFIG
    if not adapter.is_file():
        return any(name.endswith(_CLASSES) for name in _architectures(directory))
    settings = read_json(adapter)
    trained_on = settings.get("auto_mapping")
    name = str(trained_on.get("base_model_class")) if isinstance(trained_on, dict) else ""
    saves = bool(settings.get("modules_to_save"))
    return settings.get("task_type") == _ADAPTER or (saves and name.endswith(_CLASSES))


def _architectures(directory: Path) -> list[str]:
    """Return the names of classes that a model's own config.json has."""
    named = _config(directory).get("architectures")
    return [str(name) for name in named] if isinstance(named, list) else []


def _config(directory: Path) -> Mapping[str, Any]:
    """Return what an expert's own config.json says; nothing where it has none."""
    path = directory / CONFIG
    return read_json(path) if path.is_file() else {}


def _head(expert: Checkpoint, parts: Mapping[str, str]) -> Renamed:
    """Return the tensors of an expert's head, by their canonical names within it."""
    own, plain = expert.own, expert.naming.plain
    stored = {plain(name): name for name in own.names()}
    for name in parts.values():
        if name not in stored:
            saved = "" if not (expert.directory / ADAPTER_CONFIG).is_file() else " (peft: modules_to_save)"
            raise InputError(
                f"{expert.location}: found no tensor {name}, expected the whole head of a classifier{saved}"
            )
    head = Renamed(own, {canonical: stored[name] for canonical, name in parts.items()})
    first = "dense.weight" if "dense.weight" in parts else "out.weight"
    width, count = head.shape(first)[1:] or (0,), head.shape("out.bias")[:1] or (0,)
    expected = dict.fromkeys(parts, width)  # biases and norms
    expected |= {"out.weight": (*count, *width), "out.bias": count}
    expected |= {"dense.weight": (*width, *width)} if "dense.weight" in parts else {}
    for canonical, shape in expected.items():
        if head.shape(canonical) != shape:
            raise InputError(
                f"{expert.location}: tensor {parts[canonical]} has shape {list(head.shape(canonical))}, "
                f"expected {list(shape)}, as the others of its head have it"
            )
    return head


def _require_judged(expert: Checkpoint, parts: Mapping[str, str]) -> None:
    """Raise InputError for a classifier that gives a sample several classes or numbers."""
    problem, count = _config(expert.directory).get("problem_type"), _head(expert, parts).shape("out.bias")[0]
    if problem == "multi_label_classification" or (problem == "regression" and count > 1):
        raise InputError(
            f"{expert.directory / CONFIG}: found problem_type {problem} with {count} scores, expected one "
            "class or one number for each sample: nothing here judges several"
        )


def _classes(
    recipe: Recipe, name: str, expert: Checkpoint, asked: Mapping[str, str], count: int
) -> tuple[str, ...]:
    """Return the names of a head's classes, in the order of its scores: those that the recipe asks for, which
    stand in this order unless they, or their texts, are the names that the expert's config has.
    """
    own = _named(_config(expert.directory), expert, count)
    if not asked:
        return tuple(own)
    known = Order(own)
    named = {each: known.place(each) for each in asked}
    places = [known.place(asked[each]) if place is None else place for each, place in named.items()]
    if len(asked) == count and {*places} == {*range(count)}:
        return tuple(each for _, each in sorted(zip(places, asked, strict=True)))
    if len(asked) != count or any(place not in (None, index) for index, place in enumerate(places)):
        raise recipe.mistake(
            ("tasks", name, "labels"),
            f"found {', '.join(asked)}, expected names for the {count} classes of its expert in their order: "
            f"{', '.join(own)}",
        )
    return tuple(asked)


def _named(config: Mapping[str, Any], expert: Checkpoint, count: int) -> Sequence[str]:
    """Return the names that an expert's config has for its classes; LABEL_0 and so on where it has none."""
    given = config.get("id2label")
    names = {str(key): str(label) for key, label in given.items()} if isinstance(given, dict) else {}
    found = [names.get(str(place), f"LABEL_{place}") for place in range(count)]
    if names and (len(names) != count or len({*found}) < count):
        raise InputError(
            f"{expert.directory / CONFIG}: found id2label {given!r:.80}, expected distinct names of the "
            f"{count} classes that its head has"
        )
    return found
