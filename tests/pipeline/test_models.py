"""What `epmq merge` makes of slices of a real family, and what calibration makes of them."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModel, AutoTokenizer

from converters import open_family
from converters.from_gguf.checkpoint import GgufBase
from epmq_export.errors import RecipeError
from epmq_export.merging.hf_directory import write_merged
from epmq_export.pipeline.merge import merge
from epmq_export.pipeline.models import lost_tokens, open_checkpoints, open_models
from epmq_export.recipe.load import load_recipe
from epmq_export.recipe.recipe import Recipe
from tests.tiny import recipe_project


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    base = recipe_project.base(folder / "base", width=32)
    recipe_project.full_expert(folder / "whole", base, 1)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )  # of transformers, on PEFT's doing
        recipe_project.lora_expert(folder / "adapter", base, 2)
    (folder / "text.txt").write_text("a\nb\n")
    return folder


def recipe(folder: Path, **keys: object) -> Recipe:
    tasks = {"one": {"expert": "./whole", "calibration": "text.txt"}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"base_model": "./base", "tasks": tasks, **keys}))
    return load_recipe(folder / "recipe.yaml")


def slices(*ranges: tuple[int, int]) -> list[dict[str, object]]:
    return [
        {"sources": [{"model": f"./{name}", "layer_range": [*span]} for name in ("base", "whole")]}
        for span in ranges
    ]


def test_tokens_that_the_merge_has_not_are_told(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "base", tmp_path / "base")
    shutil.copytree(folder / "whole", tmp_path / "whole")
    (tmp_path / "text.txt").write_text("a\nb\n")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    tokenizer.add_tokens(["<tool>"])
    tokenizer.save_pretrained(tmp_path / "whole")
    for keys, told in (({}, 1), ({"tokenizer_source": "base"}, 1), ({"tokenizer_source": "union"}, 0)):
        asked = recipe(tmp_path, **keys)
        opened = open_checkpoints(asked, GgufBase)
        notes = lost_tokens(asked, opened.base, opened.experts)
        assert [note.startswith("./whole: its tokenizer has '<tool>', which") for note in notes] == [
            True
        ] * told


def test_a_deeper_model_is_written_and_loads(folder: Path, tmp_path: Path) -> None:
    asked = recipe(folder, slices=slices((0, 3), (1, 3)))
    made = merge(asked, open_checkpoints(asked, GgufBase))
    write_merged(
        tmp_path / "out", made.source, made.directory, "card", config=made.config, tokenizer=made.tokenizer
    )
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_hidden_layers"] == 5
    model, single = AutoModel.from_pretrained(tmp_path / "out"), recipe(folder)
    flat = merge(single, open_checkpoints(single, GgufBase)).source
    for layer, origin in enumerate((0, 1, 2, 1, 2)):
        weight = f"encoder.layer.{origin}.output.dense.weight"
        assert torch.equal(model.encoder.layer[layer].output.dense.weight, flat.load(weight))
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (
        folder / "base" / "tokenizer.json"
    ).read_bytes()


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"slices": slices((0, 10**10))},
            r"slices\[0\]\.sources\[0\]\.layer_range: found \[0, 10000000000\], but \./base has 3 layers",
        ),
        (
            {
                "modules": {
                    "encodr": {"slices": slices((0, 3))},
                    "default": {"models": [{"model": "./whole"}]},
                }
            },
            r"modules\.encodr: found no tensor that belongs to it",
        ),
    ],
)
def test_layers_that_no_model_has_are_refused(folder: Path, keys: dict[str, object], sentence: str) -> None:
    asked = recipe(folder, **keys)
    with pytest.raises(RecipeError, match=rf"recipe\.yaml:\d+: {sentence}"):
        merge(asked, open_checkpoints(asked, GgufBase))


def test_calibration_refuses_layers_that_are_not_the_bases(folder: Path) -> None:
    asked = recipe(folder, slices=slices((0, 3), (1, 3)))
    with pytest.raises(
        RecipeError,
        match=(
            r"recipe\.yaml:\d+: slices: found layers in another order or number than the "
            r"base's.*`merge` works"
        ),
    ):
        open_models(asked, open_checkpoints(asked, GgufBase), open_family)


def test_calibration_takes_the_bases_own_layers_in_slices(folder: Path) -> None:
    sliced, whole = (
        open_models(asked, open_checkpoints(asked, GgufBase), open_family).merged
        for asked in (recipe(folder, slices=slices((0, 1), (1, 3))), recipe(folder))
    )
    assert list(sliced.names()) == list(whole.names())
    assert all(torch.equal(sliced.load(name), whole.load(name)) for name in whole.names())


@pytest.mark.parametrize(
    "keys",
    [
        {"tokenizer_source": "union"},
        {"tokenizer_source": "./whole"},
        {"tokenizer": {"source": "base"}},
        {"chat_template": "auto"},
    ],
)
def test_calibration_refuses_another_tokenizer(folder: Path, keys: dict[str, object]) -> None:
    asked = recipe(folder, **keys)
    with pytest.raises(
        RecipeError,
        match=rf"recipe\.yaml:\d+: {next(iter(keys))}: found it set, expected it left out.*`merge` works",
    ):
        open_models(asked, open_checkpoints(asked, GgufBase), open_family)


def test_an_adapter_on_the_base_as_the_model_whose_config_counts(folder: Path, tmp_path: Path) -> None:
    (folder / "linear.yaml").write_text(
        yaml.safe_dump(
            {"merge_method": "linear", "models": [{"model": "./base+./adapter"}, {"model": "./whole"}]}
        )
    )
    asked = load_recipe(folder / "linear.yaml")
    made = merge(asked, open_checkpoints(asked, GgufBase))
    write_merged(
        tmp_path / "out", made.source, made.directory, "card", config=made.config, tokenizer=made.tokenizer
    )
    assert AutoModel.from_pretrained(tmp_path / "out").config.num_hidden_layers == 3
