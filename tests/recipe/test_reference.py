"""docs/recipe.md, held to the keys and choices that there are."""

import re
from pathlib import Path
from typing import get_origin

import yaml
from pydantic import BaseModel

from epmq_export.calibration.method import PRESETS
from epmq_export.grids import GRIDS
from epmq_export.recipe.mistakes import keys, mappings
from epmq_export.recipe.recipe import Recipe
from epmq_export.recipe.task import RecipeData
from tests import ROOT
from tests.recipe.written import load

REFERENCE = ROOT / "docs" / "recipe.md"


def _reference(part: type[BaseModel], above: str = "") -> dict[str, object]:
    """Every key of a recipe, dotted, with its default; `modules` takes its inner keys from above."""
    found: dict[str, object] = {}
    for key, info in zip(keys(part), part.model_fields.values(), strict=True):
        inner = next(mappings(info.annotation), None)
        if inner is RecipeData:  # or a path; told in full where it stands first
            found[f"{above}{key}"] = ... if info.is_required() else info.default
            found |= _reference(inner, f"{above}{key}[].") if key == "calibration" else {}
        elif inner is not None and not (above == "modules.NAME." and key in ("models", "slices")):
            found |= _reference(inner, f"{above}{key}{_INSIDE.get(get_origin(info.annotation), '.')}")
        else:
            found[f"{above}{key}"] = (
                ... if info.is_required() or (key == "base_model" and not above) else info.default
            )
    return found


_INSIDE = {list: "[].", dict: ".NAME."}


def test_the_reference_names_every_key_with_its_default_and_no_other() -> None:
    rows = [
        line.split(" | ")
        for line in REFERENCE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    # The table of what stands beside the weights has two columns.
    documented = {row[0].strip("| `"): row[2].strip("`") for row in rows if len(row) > 2}
    expected = _reference(Recipe)
    assert list(documented) == list(expected)
    for key, default in expected.items():
        if default is ... or default is None or default == {}:
            assert documented[key] == ("required" if default is ... else "none"), key
        else:
            assert yaml.safe_load(documented[key]) == default or float(documented[key]) == default, key


def test_the_reference_names_every_choice() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    for choice in (*PRESETS, *GRIDS, "F16", "F32", "float32", "float16", "bfloat16", "gguf", "onnx"):
        assert f"`{choice}`" in text, choice


def test_the_examples_of_the_reference_are_recipes(folder: Path) -> None:
    examples = REFERENCE.read_text(encoding="utf-8").split("```yaml\n")[1:]
    assert len(examples) >= 2
    for name in ("experts/sst2", "experts/ag_news", "experts/support"):
        (folder / name).mkdir(parents=True)
    for name in ("sst2.train.txt", "sst2.test.tsv", "ag_news.train.tsv", "ag_news.test.tsv", "tickets.txt"):
        (folder / "data" / name).touch()
    for name in ("experts/pets", "experts/signs", "data/pets", "data/signs"):
        (folder / name).mkdir(parents=True)
    (folder / "data/digits.npz").touch()
    (folder / "data/ag_news.labels.json").write_text('{"world": "world news", "sports": "sports news"}')
    for name in ("experts/textures", "experts/flowers"):
        (folder / name).mkdir(parents=True)
    for name in ("experts/textures/head.safetensors", "data/textures.npz", "data/flowers.npz"):
        (folder / name).touch()
    for name in ("experts/news", "experts/stories", "experts/grammar", "experts/similarity", "experts/mrpc"):
        (folder / name).mkdir(parents=True)
    for name in (
        "mrpc.train.jsonl",
        "mrpc.test.jsonl",
        "news.txt",
        "news.test.tsv",
        "stories.txt",
        "stories.test.txt",
        "grammar.txt",
        "grammar.test.tsv",
        "pairs.txt",
        "pairs.test.tsv",
    ):
        (folder / "data" / name).touch()
    for name in ("experts/sentiment", "experts/questions", "experts/tickets"):
        (folder / name).mkdir(parents=True)
    for name in (
        "reviews.txt",
        "reviews.test.tsv",
        "questions.txt",
        "questions.test.tsv",
        "support.test.jsonl",
    ):
        (folder / "data" / name).touch()
    for name in ("experts/paraphrases", "data/paraphrases"):
        (folder / name).mkdir(parents=True)
    for example in examples:
        load(folder, example.split("```")[0])


def test_the_files_that_the_reference_names_are_there() -> None:
    named = re.findall(r"`([\w/]+\.py)`", REFERENCE.read_text(encoding="utf-8"))
    assert named and all((ROOT / path).is_file() for path in named)
