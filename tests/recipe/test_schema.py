"""The JSON schema of recipes, for editors."""

import json
import re
from typing import Any

import jsonschema
import pytest
import yaml

from epmq_export.api import recipe_schema
from tests import ROOT

SCHEMA = json.loads(json.dumps(recipe_schema()))
FILES = [*sorted((ROOT / "recipes").glob("*.yaml")), ROOT / "epmq_export" / "demo" / "recipe.yaml"]
PAGE = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
EXAMPLES = [text for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "..." not in text]


def test_the_file_is_the_schema() -> None:
    path = ROOT / "docs" / "recipe.schema.json"
    assert json.loads(path.read_text(encoding="utf-8")) == SCHEMA, (
        "run `epmq recipe --schema > docs/recipe.schema.json`"
    )
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recipes_that_are_right_are_right_by_it(path: Any) -> None:
    text = path.read_text(encoding="utf-8")
    jsonschema.validate(yaml.safe_load(text), SCHEMA)
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named is not None and (path.parent / named[1]).resolve() == ROOT / "docs" / "recipe.schema.json"


def test_examples_of_the_page_are_right_by_it() -> None:
    whole = [found for text in EXAMPLES if "base_model" in (found := yaml.safe_load(text))]
    assert len(whole) >= 2
    for found in whole:
        jsonschema.validate(found, SCHEMA)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"baes_model": "x"}, []),
        ({"calibration": {"method": "anchord"}}, ["calibration", "method"]),
        ({"calibration": {"samples": 0}}, ["calibration", "samples"]),
        ({"quantization": {"grid": "Q4"}}, ["quantization", "grid"]),
        ({"tasks": {"a": {"calibration": "a.txt"}}}, ["tasks", "a"]),
        ({"verify": {"rule": "luck"}}, ["verify", "rule"]),
    ],
)
def test_mistakes_are_marked(change: dict[str, Any], place: list[str]) -> None:
    with pytest.raises(jsonschema.ValidationError) as raised:
        jsonschema.validate({"base_model": "org/base", **change}, SCHEMA)
    assert list(raised.value.absolute_path) == place


@pytest.mark.parametrize(
    "part",
    [
        {"calibration": {"refine": True, "rho": "auto"}},
        {"calibration": {"refine": 300, "rho": 1}},
        {"calibration": {"refine": "affine"}},
        {"tasks": {"a": {"expert": "./a", "calibration": ["a.txt", {"dataset": "org/a", "texts": "text"}]}}},
        {
            "tasks": {
                "a": {"expert": "./a", "calibration": {"path": "a.csv"}, "labels": {"x": None, "y": "why"}}
            }
        },
        {"parameters": None, "models": [{"model": "org/a", "parameters": {"weight": [0, 1]}}]},
    ],
)
def test_every_way_to_write_a_value_is_right(part: dict[str, Any]) -> None:
    jsonschema.validate({"base_model": "org/base", **part}, SCHEMA)
