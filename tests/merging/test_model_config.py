"""The numbers of layers and of tokens in a model's config, and a config for other layers."""

from pathlib import Path
from typing import Any

import pytest

from epmq_export.errors import InputError
from epmq_export.merging.model_config import layer_changes, vocabulary_changes

PATH = Path("config.json")


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer", "n_layers", "num_layers"])
def test_the_number_of_layers_whatever_it_is_called(key: str) -> None:
    assert layer_changes({key: 4, "num_heads": 4}, PATH, {"h": 4}, {"h": [0, 1, 1]}) == {key: 3}


def test_what_is_listed_by_layer_follows() -> None:
    config = {"num_hidden_layers": 3, "layer_types": ["full", "sliding", "other"], "eos_token_id": [1, 2, 3]}
    assert layer_changes(config, PATH, {"h": 3}, {"h": [2, 0, 0, 1]}) == {
        "num_hidden_layers": 4,
        "layer_types": ["other", "full", "full", "sliding"],
    }


def test_an_encoder_and_a_decoder_are_counted_apart() -> None:
    config = {"num_layers": 2, "num_decoder_layers": 2}
    assert layer_changes(config, PATH, {"encoder.block": 2, "decoder.block": 2}, {"decoder.block": [0]}) == {
        "num_decoder_layers": 1
    }
    assert layer_changes(
        config, PATH, {"encoder.block": 2, "decoder.block": 2}, {"encoder.block": [0, 1, 1]}
    ) == {"num_layers": 3}
    bart = {"encoder_layers": 2, "decoder_layers": 2, "num_hidden_layers": 2}
    assert layer_changes(bart, PATH, {"decoder.layers": 2}, {"decoder.layers": [0]}) == {"decoder_layers": 1}


def test_towers_have_a_config_each() -> None:
    config: dict[str, Any] = {
        "text_config": {"num_hidden_layers": 2, "x": 1},
        "vision_config": {"num_hidden_layers": 2},
    }
    changes = layer_changes(
        config, PATH, {"text_model.encoder.layers": 2}, {"text_model.encoder.layers": [0]}
    )
    assert changes == {"text_config": {"num_hidden_layers": 1, "x": 1}}
    changes = layer_changes(
        config, PATH, {"vision_model.encoder.layers": 2}, {"vision_model.encoder.layers": [0, 0, 1]}
    )
    assert changes == {"vision_config": {"num_hidden_layers": 3}}


@pytest.mark.parametrize(
    ("tower", "stack"),
    [("vision", "vision_tower.layers"), ("vision", "visual.blocks"), ("audio", "audio_tower.layers")],
)
def test_a_stack_that_names_no_tower_is_the_texts(tower: str, stack: str) -> None:
    config: dict[str, Any] = {
        "text_config": {"num_hidden_layers": 2},
        f"{tower}_config": {"num_hidden_layers": 2},
    }
    layers = {"language_model.model.layers": 2, stack: 2}
    assert layer_changes(config, PATH, layers, {"language_model.model.layers": [0]}) == {
        "text_config": {"num_hidden_layers": 1}
    }
    assert layer_changes(config, PATH, layers, {stack: [0]}) == {f"{tower}_config": {"num_hidden_layers": 1}}


def test_a_config_that_does_not_say_is_refused() -> None:
    with pytest.raises(InputError, match=r"config\.json: found 0 keys that say how many layers h has \(4\)"):
        layer_changes({"num_hidden_layers": 5}, PATH, {"h": 4}, {"h": [0]})


def test_no_slices_change_nothing() -> None:
    assert layer_changes({}, PATH, {"h": 4}, {}) == {}


def test_the_number_of_tokens() -> None:
    assert vocabulary_changes({"vocab_size": 3}, 5) == {"vocab_size": 5}
    assert vocabulary_changes({"text_config": {"vocab_size": 3, "x": 1}}, 5) == {
        "text_config": {"vocab_size": 5, "x": 1}
    }
