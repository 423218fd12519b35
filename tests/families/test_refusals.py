"""Model directories that a family refuses, each in one sentence."""

import json
import shutil
from pathlib import Path

import pytest

from converters import open_family
from epmq_export.errors import InputError
from tests.families.conftest import Opened


def with_config(opened: Opened, place: Path, content: str) -> Path:
    """Return a copy of the model, without weights, with another config.json."""
    shutil.copytree(opened.directory, place, ignore=shutil.ignore_patterns("*.safetensors"))
    (place / "config.json").write_text(content, encoding="utf-8")
    return place


def sentence(directory: Path) -> str:
    """Return what is said of the config.json of a directory, one line that begins with its name."""
    with pytest.raises(InputError) as error:
        open_family(directory)
    said = str(error.value)
    assert said.startswith(f"{directory / 'config.json'}: ") and "\n" not in said
    return said


@pytest.mark.parametrize("value", ["wide", None, [], {}, 1.5, 0, -1])
def test_a_mistaken_number_in_the_config_is_a_sentence(opened: Opened, tmp_path: Path, value: object) -> None:
    config = json.loads((opened.directory / "config.json").read_text(encoding="utf-8"))
    *inner, key = opened.model.number.split(".")
    place = config
    for part in inner:
        place = place[part]
    place[key] = value
    found = sentence(with_config(opened, tmp_path / "model", json.dumps(config)))
    if value == "wide":
        assert f"found no config of a {config['model_type']} (" in found and key in found


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "not readable as JSON"), ("[]", "found a list, expected an object"), ("{}", "model_type is None")],
)
def test_a_config_that_is_none_is_a_sentence(opened: Opened, tmp_path: Path, content: str, said: str) -> None:
    assert said in sentence(with_config(opened, tmp_path / "model", content))


def test_a_directory_without_a_tokenizer_or_processor_is_a_sentence(opened: Opened, tmp_path: Path) -> None:
    place = tmp_path / "model"
    place.mkdir()
    shutil.copy(opened.directory / "config.json", place)
    with pytest.raises(InputError) as error:
        open_family(place)
    assert str(error.value).startswith(str(place)) and "\n" not in str(error.value)
