"""The layer that a tensor's name stands for, and what stands before and after the layers."""

import pytest

from epmq_export.merging.names import Layers, comes_before, count_layers, layer_of, stack_of, with_layer


def test_the_first_number_of_a_name_is_the_layer() -> None:
    name = "encoder.block.3.layer.0.SelfAttention.q.weight"
    assert (stack_of(name), layer_of(name)) == ("encoder.block", 3)
    assert with_layer(name, 12) == "encoder.block.12.layer.0.SelfAttention.q.weight"
    assert stack_of("embeddings.weight") is None and layer_of("embeddings.weight") is None
    assert with_layer("embeddings.weight", 2) == "embeddings.weight"


def test_each_stack_is_counted_by_itself() -> None:
    assert count_layers(["embeddings.weight", "h.0.a", "h.11.a", "text.layers.1.b"]) == {
        "h": 12,
        "text.layers": 2,
    }
    assert count_layers(["embeddings.weight"]) == {}


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "embeddings.LayerNorm.bias",
        "transformer.wte.weight",
        "wpe.weight",
        "shared.weight",
        "gpt_neox.embed_in.weight",
        "vision_model.pre_layrnorm.weight",
        "vision_model.embeddings.class_embedding",
        "transformer.word_embeddings.weight",
    ],
)
def test_what_comes_before_the_layers(name: str) -> None:
    assert comes_before(name)


@pytest.mark.parametrize(
    "name",
    [
        "model.norm.weight",
        "lm_head.weight",
        "pooler.dense.bias",
        "transformer.ln_f.weight",
        "embed_out.weight",
        "classifier.weight",
    ],
)
def test_what_comes_after_the_layers(name: str) -> None:
    assert not comes_before(name)


def test_a_gradient_runs_over_the_layers_of_its_stack() -> None:
    two = Layers({"encoder.block": 3, "decoder.block": 2})
    assert [two.share(f"encoder.block.{layer}.w") for layer in range(3)] == [0, 0.5, 1]
    assert [two.share(f"decoder.block.{layer}.w") for layer in range(2)] == [0, 1]
    assert two.share("shared.weight") == 0
    assert two.name_in(0, "encoder.block.1.w") == "encoder.block.1.w"


def test_a_slice_has_its_own_gradient_and_names() -> None:
    part = Layers({"h": 3}, first=4, starts=(0, 7))
    assert [part.share(f"h.{layer}.w") for layer in (4, 5, 6)] == [0, 0.5, 1]
    assert part.name_in(0, "h.5.w") == "h.1.w" and part.name_in(1, "h.5.w") == "h.8.w"
    assert (
        part.name_in(1, "embed.weight") == "embed.weight"
        and part.name_in(1, "classifier.0.weight") == "classifier.0.weight"
    )
    assert Layers({"h": 1}, first=4).share("h.4.w") == 1
