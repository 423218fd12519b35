"""A model with a tower that stays the base's: what is merged, what experts may lack, what `epmq merge`
writes.
"""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import CLIPModel

from converters import frozen, open_family
from converters.from_gguf.checkpoint import GgufBase
from epmq_export.calibration.calibrator import Calibrator, TaskData
from epmq_export.calibration.method import PRESETS
from epmq_export.errors import EpmqError, InputError, RecipeError
from epmq_export.grids.layout import Layout
from epmq_export.models.model_set import ModelSet
from epmq_export.pipeline.merge import merge
from epmq_export.pipeline.models import open_checkpoints, open_models
from epmq_export.recipe.load import load_recipe
from epmq_export.recipe.recipe import Recipe
from tests.command_line.command import Warm
from tests.tiny.calibrated_bert import CPU, calibrated, flat
from tests.tiny.shallow_clip import QUERY, TEXT_QUERY, clip, image_tower, pictures, whole_expert


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two experts of the image tower alone, and one whose text tower has moved too."""
    folder = tmp_path_factory.mktemp("models")
    base = clip(folder / "base")
    for seed, name in enumerate(("one", "two"), 1):
        image_tower(folder / name, base, seed)
    whole_expert(folder / "whole", base, 3)
    (folder / "images").mkdir()
    return folder


def recipe(folder: Path, *experts: str, **keys: object) -> Recipe:
    tasks = {name: {"expert": f"./{name}", "calibration": "images"} for name in experts}
    settings = {
        "base_model": "./base",
        "merge_method": "task_arithmetic",
        "parameters": {"lambda": 0.5},
        "tasks": tasks,
        **keys,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    return load_recipe(folder / "recipe.yaml")


def opened(asked: Recipe) -> ModelSet:
    return open_models(asked, open_checkpoints(asked, GgufBase), open_family)


def test_experts_of_the_image_tower_alone_get_the_rest_from_the_base(folder: Path) -> None:
    found = opened(recipe(folder, "one", "two"))
    assert (
        TEXT_QUERY in found.frozen
        and "visual_projection.weight" in found.frozen
        and "logit_scale" in found.frozen
    )
    assert not any(name.startswith("vision_model.") for name in found.frozen)
    for source in (*found.experts.values(), found.merged):
        assert list(source.names()) == list(found.base.names())
        assert all(torch.equal(source.load(name), found.base.load(name)) for name in found.frozen)
    one, two = found.experts.values()
    expected = found.base.load(QUERY) + 0.5 * (one.load(QUERY) + two.load(QUERY) - 2 * found.base.load(QUERY))
    torch.testing.assert_close(found.merged.load(QUERY), expected)


def test_what_an_expert_moved_of_the_frozen_is_left_behind(folder: Path) -> None:
    found = opened(recipe(folder, "whole"))
    (expert,) = found.experts.values()
    stored = load_file(folder / "whole" / "model.safetensors")
    assert not torch.equal(stored[TEXT_QUERY], found.base.load(TEXT_QUERY))
    assert torch.equal(expert.load(TEXT_QUERY), found.base.load(TEXT_QUERY)) and torch.equal(
        expert.load(QUERY), stored[QUERY]
    )
    assert torch.equal(found.merged.load(TEXT_QUERY), found.base.load(TEXT_QUERY))


def test_with_nothing_frozen_all_is_merged(folder: Path) -> None:
    found = opened(recipe(folder, "whole", frozen=[]))
    assert found.frozen == []
    (expert,) = found.experts.values()
    for name in (TEXT_QUERY, QUERY, "visual_projection.weight"):
        torch.testing.assert_close(found.merged.load(name), (found.base.load(name) + expert.load(name)) / 2)
    assert found.like_expert(expert) is expert


def test_with_nothing_frozen_an_expert_must_have_all(folder: Path) -> None:
    with pytest.raises(EpmqError, match=r"logit_scale|text_model") as error:
        opened(recipe(folder, "one", frozen=[]))
    assert isinstance(error.value, InputError) and "\n" not in str(error.value)


def test_a_recipes_own_patterns_take_the_place_of_the_familys(folder: Path) -> None:
    found = opened(recipe(folder, "whole", frozen=["vision_model.encoder.layers.0.*", "logit_scale"]))
    assert len(found.frozen) == 17 and QUERY in found.frozen
    assert torch.equal(found.merged.load(QUERY), found.base.load(QUERY))
    assert not torch.equal(found.merged.load(TEXT_QUERY), found.base.load(TEXT_QUERY))


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        (
            ["text_model.*", "no.such.*"],
            (
                r"frozen\[1\]: found 'no\.such\.\*', which matches no tensor, expected a pattern of "
                r"names such "
                r"as logit_scale"
            ),
        ),
        (["*"], r"frozen: found patterns of all tensors, expected some that are merged"),
    ],
)
def test_patterns_that_make_no_sense_are_one_sentence(
    folder: Path, patterns: list[str], sentence: str
) -> None:
    asked = recipe(folder, "one", frozen=patterns)
    for attempt in (
        lambda: opened(asked),
        lambda: merge(asked, open_checkpoints(asked, GgufBase), ()),
    ):
        with pytest.raises(RecipeError, match=rf"recipe\.yaml:\d+: {sentence}") as error:
            attempt()
        assert "\n" not in str(error.value)


def test_a_text_encoder_freezes_nothing(folder: Path, minilm_directory: Path) -> None:
    assert (
        frozen(minilm_directory) == () and frozen(folder / "images") == ()
    )  # nor does what is no model of a known family
    assert "text_model.*" in frozen(folder / "base")


def test_merge_keeps_the_bases_frozen_tensors(folder: Path, epmq: Warm, tmp_path: Path) -> None:
    recipe(folder, "one", "whole")
    assert epmq("merge", folder / "recipe.yaml", "-o", "out", folder=tmp_path).code == 0
    base, out = (load_file(place / "model.safetensors") for place in (folder / "base", tmp_path / "out"))
    assert out.keys() == base.keys()
    for name, value in out.items():
        assert torch.equal(value, base[name]) == (not name.startswith("vision_model.")), name
    assert torch.equal(CLIPModel.from_pretrained(tmp_path / "out").state_dict()[QUERY], out[QUERY])


def test_merge_with_nothing_frozen_merges_all(folder: Path, epmq: Warm, tmp_path: Path) -> None:
    recipe(folder, "whole", frozen=[])
    assert epmq("merge", folder / "recipe.yaml", "-o", "out", folder=tmp_path).code == 0
    base, out = (load_file(place / "model.safetensors") for place in (folder / "base", tmp_path / "out"))
    assert all(not torch.equal(value, base[name]) for name, value in out.items())


def test_calibration_takes_them_as_they_are(folder: Path) -> None:
    found = opened(recipe(folder, "one", "two"))
    tasks = [TaskData(name, expert, pictures(4, t)) for t, (name, expert) in enumerate(found.experts.items())]
    shipped = flat(
        calibrated(
            Calibrator(found.family, found.base, found.merged, tasks, PRESETS["featcal"], Layout(), CPU)
        )
    )
    projection = shipped["visual_projection.weight"]
    assert isinstance(projection, torch.Tensor) and torch.equal(
        projection, found.base.load("visual_projection.weight")
    )
