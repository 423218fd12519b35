"""Two configs held against each other: what is the same in other words, and what is told or refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from converters import require_same_settings
from epmq_export.errors import InputError
from tests.families.models import MODELS

Config = dict[str, Any]


def test_an_image_tower_alone_is_compared_with_the_bases(tmp_path: Path) -> None:
    base = MODELS["clip"].write(tmp_path / "base")
    tower = json.loads((base / "config.json").read_text())["vision_config"]
    expert = tmp_path / "expert"
    expert.mkdir()
    for changed, said in (
        ({}, None),
        ({"projection_dim": 7}, None),
        ({"num_attention_heads": 1}, r"found num_attention_heads 1 \(the base: 2\)"),
        ({"hidden_act": "relu"}, r"found hidden_act 'relu' \(the base: 'quick_gelu'\)"),
    ):
        (expert / "config.json").write_text(
            json.dumps({**tower, "model_type": "clip_vision_model", **changed})
        )
        if said is None:
            assert require_same_settings(base, expert, "the expert") == []
            continue
        with pytest.raises(InputError, match=said):
            require_same_settings(base, expert, "the expert")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # As old libraries and new ones write the same.
        ({"rope_theta": 5e5, "rope_scaling": None}, {"rope_parameters": {"rope_theta": 5e5}}),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}},
            {"rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 10000.0}},
        ),
        ({}, {"head_dim": 16, "num_key_value_heads": 4, "rms_norm_eps": 1.0000000001e-6}),
        ({"head_dim": None}, {"attention_bias": False, "torch_dtype": "float16"}),
        ({"hidden_act": "silu"}, {"hidden_act": "swish"}),
        # What only describes.
        ({}, {"max_position_embeddings": 131072, "vocab_size": 32064, "pad_token_id": 3}),
        ({}, {"unsloth_fixed": True, "quantization_config": None, "use_cache": False}),
    ],
)
def test_equal_configs_in_other_words_pass(one: Config, other: Config, tmp_path: Path) -> None:
    sizes = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}
    for name, own in (("one", one), ("other", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**sizes, **own}))
    assert require_same_settings(tmp_path / "one", tmp_path / "other", "it") == []
    assert require_same_settings(tmp_path / "other", tmp_path / "one", "it") == []


def test_a_gguf_file_of_mistral_which_says_llama_is_an_expert_of_one(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4}
    for name, own in (
        ("base", {"model_type": "mistral", "sliding_window": None}),
        ("it", {"model_type": "llama"}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({**sizes, **own}))
    assert require_same_settings(tmp_path / "base", tmp_path / "it", "it") == []


@pytest.mark.parametrize(
    ("base", "expert", "said"),
    [
        ({"model_type": "gpt2"}, {"model_type": "gpt2", "activation_function": "relu"}, "'relu'"),
        (
            {"model_type": "none", "rope_theta": 1.0},
            {"model_type": "none", "rope_theta": 2.0},
            "rope_theta 2.0",
        ),
        (
            {"model_type": "llama"},
            {"model_type": "gemma3_text"},
            "found model_type 'gemma3_text', expected 'll",
        ),
    ],
)
def test_models_of_other_kinds_and_of_no_family_are_compared(
    base: Config, expert: Config, said: str, tmp_path: Path
) -> None:
    for name, config in (("base", base), ("expert", expert)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=said):
        require_same_settings(tmp_path / "base", tmp_path / "expert", "it")


def test_a_key_whose_absence_says_nothing_is_told(tmp_path: Path) -> None:
    for name, config in (("base", {}), ("expert", {"rope_theta": 2.0})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "of no library", **config}))
    (told,) = require_same_settings(tmp_path / "base", tmp_path / "expert", "it")
    assert told.startswith("it: config.json has rope_theta 2.0, the base's has nothing: ")
