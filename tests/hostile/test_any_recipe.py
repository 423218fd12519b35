"""Recipes with anything in any place, and files of any bytes: each loads or is refused in one sentence."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epmq_export.errors import RecipeError
from epmq_export.recipe.load import load_recipe
from epmq_export.recipe.recipe import Recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the file of data that recipes here name."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "data").mkdir()
    (folder / "data" / "mood.tsv").write_text("0\tso it goes\n")
    return folder


def _loads_or_refuses(folder: Path, content: bytes) -> Recipe | None:
    path = folder / "fuzzed.yaml"
    path.write_bytes(content)
    try:
        return load_recipe(path)
    except RecipeError as error:
        assert str(error).startswith(f"{path}:")
        assert "\n" not in str(error)
        return None


RELAXED = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["data/mood.tsv", "org/a", ".", "+", "~", "/"])
)


ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


WHOLE = {
    "base_model": "org/base",
    "merge_method": "ties",
    "models": [{"model": "org/a", "parameters": {"weight": 1.0}}],
    "parameters": {},
    "dtype": "float32",
    "tokenizer": {
        "source": "base",
        "tokens": {"x": {"source": {"kind": "model_token", "model": "org/a", "token_id": 1}, "force": True}},
        "pad_to_multiple_of": 8,
    },
    "chat_template": "auto",
    "tasks": {
        "mood": {
            "expert": "org/a",
            "calibration": "data/mood.tsv",
            "evaluation": "data/mood.tsv",
            "labels": ["a", "b"],
        },
        "pets": {
            "expert": "org/a",
            "calibration": [
                {"path": "data", "split": "train", "images": "x", "labels": "y"},
                {"dataset": "org/d", "texts": ["a"]},
            ],
            "evaluation": {"dataset": "org/d@main", "config": "small", "split": "test"},
            "labels": {"a": "a", "b": "b"},
            "templates": ["a photo of a {}."],
        },
    },
    "frozen": ["a.*"],
    "calibration": {"method": "epmq", "samples": 1, "alpha": 0.1, "rho": 1.0, "lambda": 0.1, "seed": 1},
    "quantization": {
        "grid": "Q4_0",
        "embeddings": "F16",
        "keep": ["*"],
        "overrides": {"*": "Q4_K"},
        "onnx_grid": "Q4_0",
    },
    "export": {"formats": ["gguf"]},
    "verify": {"graph": 0.1, "tasks": 0.1, "agreement": 0.1},
}


def _replaced(value: object, draw: Callable[[st.SearchStrategy[object]], object]) -> object:
    """Return the same with one value somewhere inside replaced by anything, or one key by any name."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        name = draw(st.text(max_size=5)) if not draw(st.integers(0, 9)) else key
        return {
            name if each == key else each: _replaced(inner, draw) if each == key else inner
            for each, inner in value.items()
        }
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        return [_replaced(value[0], draw), *value[1:]]
    return draw(ANYTHING)


@RELAXED
@given(st.data())
def test_any_value_in_any_place_loads_or_is_refused(folder: Path, data: st.DataObject) -> None:
    assert _loads_or_refuses(folder, yaml.safe_dump(WHOLE).encode()) is not None
    _loads_or_refuses(folder, yaml.safe_dump(_replaced(WHOLE, data.draw)).encode())


@RELAXED
@given(st.binary(max_size=60) | st.text("abm: -[]{}#&*!|>'\"%@`\t\n,?<", max_size=60).map(str.encode))
def test_any_bytes_load_or_are_refused(folder: Path, content: bytes) -> None:
    _loads_or_refuses(folder, content)
