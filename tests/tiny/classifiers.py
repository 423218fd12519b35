"""Small classifiers of BERT's kinds, as transformers saves them, and recipes of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from converters import naming, open_family
from epmq_export.calibration.rounding import store
from epmq_export.calibration.storage import storage_of
from epmq_export.grids.layout import Layout
from epmq_export.models.classifiers import classes_file
from epmq_export.models.family import heads_of
from epmq_export.models.model_set import ModelSet
from epmq_export.models.samples import Pair
from epmq_export.pipeline.models import open_checkpoints, open_models
from epmq_export.recipe.load import load_recipe
from epmq_export.recipe.recipe import Recipe
from epmq_export.tensors import packed_writer
from epmq_export.tensors.packed import Packed
from tests.tiny import recipe_project
from tests.tiny.encoders import encoder
from tests.tiny.packed_index import an_index

CLASSES = {"mood": ("bad", "good", "so so"), "topic": ("cats", "dogs")}
PAIRS = [
    Pair("what is that ?", "the cat sat on the mat ."),
    Pair("the cat sat on the mat .", "a"),
    Pair("it is good , very good ! " * 8, "very " * 9),
]
TEXTS = [
    "the cat sat on the mat .",
    "a",
    "it is good , very good !",
    "what is that ?",
    "very very good",
    "that is it",
]


def classifier(directory: Path, base: Path, classes: Sequence[str], seed: int) -> Path:
    """Write a classifier that was trained from the base, with a name for each class."""
    torch.manual_seed(seed)
    names = dict(enumerate(classes))
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        base, id2label=names, label2id={name: place for place, name in names.items()}
    )
    with torch.no_grad():
        for value in model.parameters():
            value += 0.02 * torch.randn_like(value)
    model.save_pretrained(directory)
    return directory


@torch.no_grad()
def scores(classifier: Path, base: Path, samples: Sequence[str | Pair]) -> Tensor:
    """Return what transformers' own class makes of texts and of pairs, float32 [n, classes]."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    tokenizer = AutoTokenizer.from_pretrained(base)
    given = [(each.first, each.second) if isinstance(each, Pair) else (each,) for each in samples]
    settings = {"truncation": True, "max_length": tokenizer.model_max_length, "return_tensors": "pt"}
    return torch.cat([model(**tokenizer(*texts, **settings)).logits for texts in given])


@dataclass(frozen=True)
class Classified:
    """A base, a classifier of it for each task, texts and a recipe."""

    directory: Path

    @property
    def base(self) -> Path:
        return self.directory / "base"

    def recipe(self, **changes: dict[str, object]) -> Recipe:
        """Return the recipe, with changes to its tasks by their names (None: without that key)."""
        tasks = {name: {**self.task(name), **changes.get(name, {})} for name in CLASSES}
        content = {"base_model": "./base", "tasks": tasks, "calibration": {"samples": 4}}
        path = self.directory / "recipe.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return load_recipe(path)

    def task(self, name: str) -> dict[str, object]:
        """Return a task of the recipe."""
        return {"expert": f"./{name}", "calibration": "texts.txt", "evaluation": f"{name}.tsv"}

    def models(self, recipe: Recipe) -> ModelSet:
        return open_models(recipe, open_checkpoints(recipe, _no_gguf, naming), open_family)

    @cached_property
    def opened(self) -> ModelSet:
        """Return the models of the recipe."""
        return self.models(self.recipe())

    @cached_property
    def packed(self) -> Packed:
        """Return the merge, rounded to the nearest."""
        models, place = self.opened, self.directory / "packed"
        storage = storage_of(models.family, Layout())
        tensors = {}
        for name in models.merged.names():
            value = models.merged.load(name).float()
            tensors[name] = store(name, value, storage(name, tuple(value.shape))[0])
        heads = classes_file(heads_of(models.family))
        packed_writer.write(place, tensors, an_index(models.family.name), self.base, heads)
        return Packed(place)


def classified(directory: Path, kind: str, **changes: object) -> Classified:
    """Write such a project of one kind, with changes to the config."""
    # BERT's pieces are words, as llama.cpp makes them of any text.
    base = recipe_project.base(directory / "base", width=64, layers=2) if kind == "bert" else None
    base = base or encoder(directory / "base", kind, **changes)
    for seed, (name, classes) in enumerate(CLASSES.items()):
        classifier(directory / name, base, classes, seed + 1)
        lines = [f"{classes[place % len(classes)]}\t{text}\n" for place, text in enumerate(TEXTS)]
        (directory / f"{name}.tsv").write_text("".join(lines))
    (directory / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    return Classified(directory)


def _no_gguf(location: str, path: Path) -> Any:
    raise AssertionError(f"{location}: {path} is no GGUF file")
