"""A run whose base stood in for the one that its recipe names, as in the demo, is verified with it again."""

import json
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml

import epmq_export as epmq
from epmq_export.errors import InputError
from epmq_export.verification.report import SCHEMA
from tests.tiny import recipe_project


def test_it_is_verified_where_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    base = recipe_project.base(tmp_path / "base", width=32, layers=1)
    recipe_project.full_expert(tmp_path / "expert", base, 1)
    (tmp_path / "text.txt").write_text("a\nb\nc\n")
    asked = {
        "base_model": "nobody/is-here",
        "tasks": {"a": {"expert": "./expert", "calibration": "text.txt"}},
        "calibration": {"samples": 2},
        "export": {"formats": ["gguf"]},
    }
    place = tmp_path / "recipe.yaml"
    place.write_text(yaml.safe_dump(asked))
    first = epmq.run(epmq.load_recipe(place).with_base(base), tmp_path / "out")
    path = tmp_path / "out" / "report.json"
    report = json.loads(path.read_text())
    jsonschema.validate(report, json.loads(SCHEMA.read_text()))
    assert report["recipe"]["file"]["base"] == str(base)
    again = epmq.verify(tmp_path / "out", report=tmp_path / "again.json")
    assert again.scores == first.scores and again.scores
    assert json.loads((tmp_path / "again.json").read_text())["recipe"] == report["recipe"]
    # Where that base is gone, the recipe's own is looked for.
    base.rename(tmp_path / "moved")
    with pytest.raises(InputError, match="nobody/is-here"):
        epmq.verify(tmp_path / "out")


def test_a_base_that_the_recipe_names_needs_no_word(ran: tuple[Path, object]) -> None:
    file = json.loads((ran[0] / "report.json").read_text())["recipe"]["file"]
    assert file.keys() == {"path", "sha256"}
