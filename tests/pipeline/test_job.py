"""A recipe with everything opened: what the runtimes of its family cannot read is refused with its line."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from converters import open_family
from epmq_export.errors import InputError, RecipeError
from epmq_export.pipeline.requirements import formats_of, require_formats, require_readable
from epmq_export.recipe.load import load_recipe
from tests.tiny import clip as tiny_clip
from tests.tiny import recipe_project


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("clip")
    tiny_clip.vision_expert(place / "expert", tiny_clip.clip(place / "model"), 1)
    return place / "model"


def check(model: Path, family: Path, **settings: Any) -> None:
    """Check a recipe on the model that is given another model's family."""
    path = family.parent / "recipe.yaml"
    content = {
        "merge_method": "linear",
        "models": [{"model": str(model.parent / "expert")}],
        "base_model": str(model),
        **settings,
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    recipe, opened = load_recipe(path), open_family(family)
    require_formats(recipe, opened)
    require_readable(recipe, opened, formats_of(recipe, opened))


@pytest.mark.parametrize(
    ("quantization", "key"),
    [
        ({"grid": "Q4_K"}, r"quantization\.grid: found Q4_K"),
        ({"embeddings": "Q6_K"}, r"quantization\.embeddings: found Q6_K"),
        ({"overrides": {"*fc2*": "IQ4_NL"}}, r"quantization\.overrides.*: found IQ4_NL"),
    ],
)
def test_a_grid_that_the_family_s_runtime_cannot_read_is_refused_with_its_line(
    quantization: Any, key: str, model: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").symlink_to(model)
    message = (
        rf"{key}, which clip\.cpp cannot read in GGUF, expected one of Q4_0, Q4_1, Q4_1Z, Q8_0, or "
        r"export\.formats without gguf"
    )
    with pytest.raises(RecipeError, match=rf"recipe\.yaml:\d+: {message}"):
        check(model, tmp_path / "model", quantization=quantization)
    check(model, tmp_path / "model", quantization=quantization, export={"formats": ["onnx"]})


def test_grids_that_it_reads_pass_and_layers_that_it_does_not_know_are_refused(
    model: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").symlink_to(model)
    check(
        model,
        tmp_path / "model",
        quantization={"grid": "Q4_1Z", "embeddings": "F16", "overrides": {"*fc2*": "Q8_0"}},
    )
    other = tiny_clip.clip(tmp_path / "other" / "model", vision={"num_hidden_layers": 2})
    with pytest.raises(InputError, match=r"found 12 \+ 2 layers"):
        check(model, other)


def test_only_a_model_of_texts_has_a_prompt(model: Path, tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(model)
    (tmp_path / "x.txt").write_text("a\n")
    tasks = {"mood": {"expert": str(model.parent / "expert"), "calibration": "x.txt", "prompt": "query: {}"}}
    with pytest.raises(
        RecipeError,
        match=(
            r"recipe\.yaml:\d+: tasks\.mood\.prompt: found it set, expected the key left out: family clip "
            r"reads images$"
        ),
    ):
        check(model, tmp_path / "model", tasks=tasks)
    recipe_project.base(tmp_path / "bert" / "model", layers=1)
    (tmp_path / "bert" / "x.txt").write_text("a\n")
    check(model, tmp_path / "bert" / "model", tasks=tasks)


def test_a_split_that_no_reader_of_the_family_knows_is_refused_with_its_line(
    model: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").symlink_to(model)
    none = (
        r"recipe\.yaml:\d+: export\.split_size: found it set, expected the key left out: no runtime reads a "
        r"model of family clip in parts$"
    )
    with pytest.raises(RecipeError, match=none):
        check(model, tmp_path / "model", export={"split_size": "2G"})
    recipe_project.base(tmp_path / "bert" / "model", layers=1)
    (tmp_path / "bert" / "x.txt").write_text("a\n")
    check(model, tmp_path / "bert" / "model", export={"split_size": "2G"})
    with pytest.raises(RecipeError, match=r"export\.split_size: found it set, .*: no GGUF file is written$"):
        check(model, tmp_path / "bert" / "model", export={"split_size": "2G", "formats": ["onnx"]})
    with pytest.raises(
        RecipeError,
        match=r"recipe\.yaml:\d+: export\.split_size: found '2X', expected a size such as 2G, 500M or 800K",
    ):
        check(model, tmp_path / "model", export={"split_size": "2X"})


def test_a_client_that_opens_no_file_of_the_family_is_refused_with_its_line(
    model: Path, tmp_path: Path
) -> None:
    (tmp_path / "model").symlink_to(model)
    none = (
        r"recipe\.yaml:\d+: verify\.clients: found sentence-transformers, which opens none of the files that "
        r"are written, expected the key left out$"
    )
    with pytest.raises(RecipeError, match=none):
        check(model, tmp_path / "model", verify={"clients": ["sentence-transformers"]})
