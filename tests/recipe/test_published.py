"""A recipe as others may read it."""

from pathlib import Path

import pytest

from epmq_export.recipe.published import published


def test_no_place_of_this_machine_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "work"
    for place in (here / "experts" / "a", tmp_path / "models" / "base", tmp_path / "home" / "b"):
        place.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    recipe = {
        "base_model": str(tmp_path / "models" / "base"),
        "models": [{"model": f"{tmp_path}/models/base+{here}/experts/a", "parameters": {"weight": [0.5, 1]}}],
        "tasks": {"mood": {"expert": str(here / "experts" / "a")}, "tone": {"expert": "~/b"}},
    }
    assert published(recipe, here) == {
        "base_model": "base",
        "models": [{"model": "base+experts/a", "parameters": {"weight": [0.5, 1]}}],
        "tasks": {"mood": {"expert": "experts/a"}, "tone": {"expert": "b"}},
    }


@pytest.mark.parametrize(
    "text",
    ["./experts/a", "org/model@main", "/no/such/place", "~nobody-here/x", "a + b", "/\0", "/" + "x" * 5000],
)
def test_what_names_no_place_stays(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    assert published({"prompt": text}, tmp_path) == {"prompt": text}
