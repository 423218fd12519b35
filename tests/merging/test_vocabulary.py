"""Models with other tokens, merged: which row of the embeddings each token gets. A row of a model is all one
number.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from converters.from_gguf.checkpoint import GgufBase
from epmq_export.errors import EpmqError, InputError, RecipeError
from epmq_export.merging.hf_directory import write_merged
from epmq_export.pipeline.merge import merge
from epmq_export.pipeline.models import open_checkpoints
from epmq_export.recipe.load import load_recipe

WIDTH = 7


def write(
    directory: Path,
    words: Mapping[str, float],
    *,
    special: Sequence[str] = (),
    template: str | None = None,
    rows: int | None = None,
) -> None:
    """A model with these words and the number of each one's row; `rows` more than words are padding of -9."""
    numbers = [*words.values(), *[-9.0] * ((rows or len(words)) - len(words))]
    table = torch.tensor(numbers, dtype=torch.float32).unsqueeze(1).repeat(1, WIDTH)
    directory.mkdir()
    tensors = {
        "model.embed_tokens.weight": table,
        "lm_head.weight": table + 100,
        "model.norm.weight": torch.ones(2),
        "model.layers.0.w.weight": torch.ones(2, 2),
    }
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(
        json.dumps({"vocab_size": len(numbers), "num_hidden_layers": 1, "model_type": "llama"})
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel({word: row for row, word in enumerate(words)}, unk_token="<u>")),
        unk_token="<u>",
    )
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": [*special]})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "base", {"<u>": 0, "a": 1, "b": 2})
    write(tmp_path / "one", {"<u>": 10, "b": 12, "a": 11, "c": 13, "d": 14})  # another order, two words more
    write(tmp_path / "two", {"<u>": 20, "a": 21, "b": 22, "d": 24})
    return tmp_path


def merged(folder: Path, **keys: object) -> tuple[Path, dict[str, float], Mapping[str, Tensor]]:
    """Return the directory that is written, the mean's number of each token, and all tensors. The mean is of
    one and two, unless `keys` say something else.
    """
    models = [{"model": f"./{name}", "parameters": {"weight": 0.5}} for name in ("one", "two")]
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump({"base_model": "./base", "merge_method": "linear", "models": models, **keys})
    )
    recipe = load_recipe(folder / "recipe.yaml")
    made = merge(recipe, open_checkpoints(recipe, GgufBase))
    write_merged(
        folder / "out", made.source, made.directory, "card", config=made.config, tokenizer=made.tokenizer
    )
    tensors = {name: made.source.load(name) for name in made.source.names()}
    table = tensors["model.embed_tokens.weight"]
    assert torch.equal(table[:, 0], table[:, 1]) and len(table) == len(tensors["lm_head.weight"])
    assert json.loads((folder / "out" / "config.json").read_text())["vocab_size"] == len(table)
    tokens = AutoTokenizer.from_pretrained(folder / "out").get_vocab()
    return folder / "out", {token: float(table[row, 0]) for token, row in tokens.items()}, tensors


def test_models_with_other_tokens_are_refused_until_the_recipe_says_whose_count(folder: Path) -> None:
    with pytest.raises(InputError, match="one has another vocabulary than the base"):
        merged(folder)


def test_the_bases_tokens(folder: Path) -> None:
    _, tokens, tensors = merged(folder, tokenizer_source="base")
    assert tokens == {"<u>": 15, "a": 16, "b": 17}  # each model's own row, wherever it stood
    assert tensors["lm_head.weight"][:, 0].tolist() == [115, 116, 117]
    assert tensors["model.norm.weight"].tolist() == [1, 1]


def test_a_models_tokens(folder: Path) -> None:
    _, tokens, _ = merged(folder, tokenizer_source="./one")
    assert tokens == {
        "<u>": 15,
        "b": 17,
        "a": 16,
        "c": 13,
        "d": 19,
    }  # c: only one has it, so two takes its row


def test_the_union_of_all_tokens(folder: Path) -> None:
    out, tokens, _ = merged(folder, tokenizer_source="union")
    assert tokens == {"<u>": 15, "a": 16, "b": 17, "c": 13, "d": 19}
    assert (
        AutoTokenizer.from_pretrained(out).get_vocab()["c"] == 3
    )  # after the base's, model by model, by their ids


def test_what_the_base_has_goes_before_a_mean(folder: Path) -> None:
    write(folder / "three", {"<u>": 30, "b": 32})
    models = [
        {"model": f"./{name}", "parameters": {"weight": 1 / 4}} for name in ("base", "one", "two", "three")
    ]
    _, tokens, _ = merged(folder, tokenizer_source="union", models=models)
    assert tokens["a"] == (1 + 11 + 21 + 1) / 4  # three takes the base's
    assert tokens["d"] == pytest.approx(
        (19 + 14 + 24 + 19) / 4
    )  # base and three take the mean of those that have it


def test_single_tokens_as_the_recipe_says(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    block = {
        "source": "union",
        "pad_to_multiple_of": 8,
        "tokens": {
            "c": {"source": {"kind": "model_token", "model": "./two", "token": "a"}},
            "d": {"source": "./one", "force": True},
            "b": {"source": {"kind": "zero"}, "force": True},
            "new": {"source": {"kind": "model_token", "model": "./one", "token_id": 3}},
            "blank": {},
        },
    }
    with caplog.at_level(logging.WARNING):
        _, tokens, tensors = merged(folder, tokenizer=block)
    assert tokens == {"<u>": 15, "a": 16, "b": 0, "c": (13 + 21) / 2, "d": 14, "new": 13, "blank": 0}
    assert any(
        "'blank' is in no model merged here: its row is zero" in record.message for record in caplog.records
    )
    table = tensors["model.embed_tokens.weight"]
    assert len(table) == 8 and float(table[7, 0]) == pytest.approx(sum(tokens.values()) / 7)


def test_special_tokens_stay_special(folder: Path) -> None:
    write(folder / "chat", {"<u>": 40, "a": 41, "b": 42, "<|end|>": 43}, special=["<|end|>"])
    models = [{"model": f"./{name}", "parameters": {"weight": 0.5}} for name in ("base", "chat")]
    out, tokens, _ = merged(folder, tokenizer_source="union", models=models)
    assert tokens["<|end|>"] == 43
    assert AutoTokenizer.from_pretrained(out).added_tokens_decoder[3].special


def test_padding_of_one_model_is_dropped(folder: Path) -> None:
    write(folder / "padded", {"<u>": 50, "a": 51, "b": 52}, rows=8)
    models = [{"model": "./padded", "parameters": {"weight": 1}}]
    _, tokens, tensors = merged(folder, tokenizer_source="base", models=models)
    assert tokens == {"<u>": 50, "a": 51, "b": 52} and len(tensors["lm_head.weight"]) == 3


def test_a_model_without_a_tokenizer_is_taken_to_have_the_bases(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (folder / "two").glob("tokenizer*"):
        path.unlink()
    save_file({**_tensors(folder / "base")}, folder / "two" / "model.safetensors")
    (folder / "two" / "config.json").write_text((folder / "base" / "config.json").read_text())
    with caplog.at_level(logging.WARNING):
        _, tokens, _ = merged(folder, tokenizer_source="base")
    assert tokens == {"<u>": 5, "a": 6, "b": 7}
    assert any(
        "two: found no tokenizer" in record.message and "taken to have the base's tokens" in record.message
        for record in caplog.records
    )


def _tensors(directory: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return dict(load_file(directory / "model.safetensors"))


def test_chat_templates(folder: Path) -> None:
    write(folder / "chat", {"<u>": 0, "a": 1, "b": 2}, template="{{ messages }} of chat")
    models = [{"model": "./chat", "parameters": {"weight": 1}}]
    out, _, _ = merged(folder, models=models, chat_template="{{ messages }} of mine", tokenizer_source="base")
    assert AutoTokenizer.from_pretrained(out).chat_template == "{{ messages }} of mine"
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {"base_model": "./base", "merge_method": "linear", "models": models, "chat_template": "auto"}
        )
    )
    made = merge(load_recipe(recipe), open_checkpoints(load_recipe(recipe), GgufBase))
    write_merged(
        folder / "auto", made.source, made.directory, "card", config=made.config, tokenizer=made.tokenizer
    )
    assert AutoTokenizer.from_pretrained(folder / "auto").chat_template == "{{ messages }} of chat"


def test_layers_and_tokens_are_counted_in_the_same_part_of_the_config(folder: Path) -> None:
    config = {"text_config": {"vocab_size": 3, "num_hidden_layers": 1}}
    (folder / "base" / "config.json").write_text(json.dumps(config))
    span = {"model": "./base", "layer_range": [0, 1]}
    text = {
        "base_model": "./base",
        "merge_method": "passthrough",
        "slices": [{"sources": [span]}] * 2,
        "tokenizer": {"source": "base", "tokens": {"new": {}}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(text))
    recipe = load_recipe(folder / "recipe.yaml")
    assert merge(recipe, open_checkpoints(recipe, GgufBase)).config == {
        "text_config": {"vocab_size": 4, "num_hidden_layers": 2}
    }


@pytest.mark.parametrize(
    ("keys", "error", "sentence"),
    [
        (
            {"tokenizer_source": "base", "chat_template": "chatml"},
            RecipeError,
            r"recipe\.yaml:\d+: chat_template: found 'chatml', expected 'auto' or a template in Jinja",
        ),
        (
            {"tokenizer_source": "base", "chat_template": "auto"},
            RecipeError,
            r"recipe\.yaml:\d+: chat_template: found 'auto', but no model has a chat template",
        ),
        (
            {"tokenizer": {"source": "base", "tokens": {"": {"force": True}}}},
            RecipeError,
            r"recipe\.yaml:\d+: tokenizer\.tokens\.: found the token '', which the tokenizer does not take",
        ),
        (
            {"tokenizer": {"tokens": {"c": {"source": "./two"}}}},
            InputError,
            r"tokenizer\.tokens\.c: found no such token in .*two among the models merged here",
        ),
        (
            {
                "tokenizer": {
                    "tokens": {"c": {"source": {"kind": "model_token", "model": "./two", "token_id": 4}}}
                }
            },
            InputError,
            r"tokenizer\.tokens: found no token 4 in .*two",
        ),
    ],
)
def test_mistakes(folder: Path, keys: dict[str, object], error: type[EpmqError], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        merged(folder, **keys)


def test_embeddings_of_another_number_of_rows_than_the_config_says(folder: Path) -> None:
    config = json.loads((folder / "one" / "config.json").read_text())
    (folder / "one" / "config.json").write_text(json.dumps({**config, "vocab_size": 9}))
    sentence = (
        r"one/config\.json: found vocab_size 9, but no token embeddings of so many rows "
        r"\(model\.embed_tokens\.weight has 5\), expected the number of their"
    )
    with pytest.raises(InputError, match=sentence):
        merged(folder, tokenizer_source="union")


def test_a_tokenizer_that_its_embeddings_do_not_fit(folder: Path) -> None:
    config = json.loads((folder / "one" / "config.json").read_text())
    (folder / "one" / "config.json").write_text(json.dumps({**config, "vocab_size": 3}))
    with pytest.raises(
        InputError, match=r"one: the tokenizer gives 'd' the id 4, but config\.json says 3 rows"
    ):
        merged(folder, tokenizer_source="base")
    (folder / "one" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"one/config\.json: found no vocab_size"):
        merged(folder, tokenizer_source="base")
