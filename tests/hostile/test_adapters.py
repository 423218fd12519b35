"""Settings of LoRA adapters that would take for ever, or that are no numbers: one sentence each, at once."""

import json
from pathlib import Path
from typing import Any

import pytest

from epmq_export.errors import InputError
from epmq_export.tensors.adapter_settings import AdapterSettings

MODULE = "model.layers.0.self_attn.q_proj"


def settings(place: Path, **changes: Any) -> AdapterSettings:
    path = place / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": 16, **changes}))
    return AdapterSettings(path)


@pytest.mark.parametrize("value", [10**400, 1e31, float("1e308") * -1, None, True, "8"])
@pytest.mark.parametrize("key", ["r", "lora_alpha"])
def test_a_number_that_is_none(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(
        InputError, match=rf"adapter_config\.json: {key} of model\..* expected a number below"
    ):
        settings(tmp_path, **{key: value}).scale(MODULE, 8, "factor")


def test_a_number_beyond_all(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text('{"peft_type": "LORA", "r": 8, "lora_alpha": 1e999}')
    with pytest.raises(InputError, match=r"lora_alpha of .* is inf, expected a number below"):
        AdapterSettings(path).scale(MODULE, 8, "factor")


@pytest.mark.parametrize("pattern", ["([a-z._0-9]+)+!", "(a|a)*b", "(.*)*x", ".*.*.*.*.*x", "(a+){9}"])
def test_a_pattern_that_would_take_for_ever_is_not_tried(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=r"rank_pattern .* repeats a group or more than 4 parts, expected"):
        settings(tmp_path, rank_pattern={pattern: 8}).scale(MODULE, 8, "factor")


@pytest.mark.parametrize("pattern", ["(", "a{99999999999999999999}", "(" * 5000])
def test_a_pattern_that_is_none(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(InputError, match=r"rank_pattern .* is no regular expression"):
        settings(tmp_path, rank_pattern={pattern: 8}).scale(MODULE, 8, "factor")


@pytest.mark.parametrize(
    "pattern",
    [r".*\.layers\.[0-9]+\.self_attn\..*", r"layers\.(0|1)\.self_attn\.q_proj", "q_proj", r"^model\..*"],
)
def test_patterns_as_people_write_them_are_matched(tmp_path: Path, pattern: str) -> None:
    assert settings(tmp_path, rank_pattern={pattern: 4}).scale(MODULE, 4, "factor") == 4.0
