"""Configs of sizes that no model has: one sentence each, before a list is made as long."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import CLIPConfig, LlamaConfig

from converters.shared.config import load_config
from epmq_export.errors import InputError


def write(place: Path, **keys: Any) -> Path:
    path = place / "config.json"
    path.write_text(json.dumps({"model_type": "llama", **keys}))
    return path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", -1),
        ("num_labels", 10**9),
        ("head_dim", 2**40),
        ("hidden_size", 10**400),
    ],
)
def test_a_size_that_no_model_has(tmp_path: Path, key: str, value: int) -> None:
    with pytest.raises(
        InputError, match=rf"config\.json: found {key} -?\d+, expected 0 to \d+: no llama has"
    ):
        load_config("llama", write(tmp_path, **{key: value}), LlamaConfig)


def test_a_size_in_a_part_of_a_config(tmp_path: Path) -> None:
    path = write(tmp_path, model_type="clip", vision_config={"num_hidden_layers": 10**8})
    with pytest.raises(InputError, match="found num_hidden_layers 100000000, expected 0 to 4096"):
        load_config("clip", path, CLIPConfig)


def test_sizes_of_models_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path, num_hidden_layers=126, hidden_size=16384, num_attention_heads=128, num_labels=21841
    )
    assert load_config("llama", path, LlamaConfig).num_hidden_layers == 126
