"""What a recipe's model is called, and what it is said to be made of."""

from pathlib import Path

import pytest

from converters import open_family
from epmq_export.models.family import Family
from epmq_export.pipeline.about import about, hub_id, name_of
from epmq_export.recipe.load import load_recipe
from epmq_export.recipe.recipe import Recipe
from epmq_export.tensors.about import About
from tests.tiny.bert import small_bert

CARD = "---\nlicense: apache-2.0\nlanguage: en\n---\n# A model\n"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return open_family(small_bert(tmp_path_factory.mktemp("bert") / "model"))


def recipe(folder: Path, *experts: str, base: str = "org/small-v1", more: str = "") -> Recipe:
    for name in (base, *experts):
        if name.startswith("./"):
            (folder / name).mkdir(parents=True, exist_ok=True)
    models = "".join(f"  - {{model: {name}, parameters: {{weight: 1}}}}\n" for name in experts)
    text = f"base_model: {base}\nmerge_method: task_arithmetic\nmodels:\n{models}{more}"
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")
    return load_recipe(folder / "recipe.yaml")


@pytest.mark.parametrize(
    ("experts", "more", "name"),
    [
        (("org/a", "org/b"), "", "small-v1-merged"),
        (("org/tickets@main",), "", "tickets"),
        (("org/a", "org/b"), "name: support bot\n", "support bot"),
    ],
)
def test_names(experts: tuple[str, ...], more: str, name: str, tmp_path: Path) -> None:
    assert name_of(recipe(tmp_path, *experts, more=more)) == name


def test_a_model_that_lies_here_is_called_as_its_place_and_is_no_hub_s(tmp_path: Path) -> None:
    found = recipe(tmp_path, "./experts/tickets-v2.1", base="./small.Q8_0.gguf")
    assert name_of(found) == "tickets-v2.1"
    assert hub_id(found, "./experts/tickets-v2.1") is None and hub_id(found, "org/a@v1") == "org/a"
    assert name_of(recipe(tmp_path, "org/a", "org/b", base="./small.Q8_0.gguf")) == "small.Q8_0-merged"


def test_a_model_in_the_hub_s_cache_is_the_hub_s(bert: Family, tmp_path: Path) -> None:
    place = tmp_path / "hub" / "models--org--small-v1" / "snapshots" / ("0" * 40)
    place.mkdir(parents=True)
    (place / "README.md").write_text(CARD, encoding="utf-8")
    found = recipe(tmp_path, "org/a", "org/b", "org/a+org/lora", base=str(place))
    assert about(found, place, bert) == About(
        name="small-v1-merged",
        base_models=("org/small-v1", "org/a", "org/b", "org/lora"),
        license="apache-2.0",
        languages=("en",),
        pipeline_tag="sentence-similarity",
    )


@pytest.mark.parametrize("card", [None, "# No front matter\n", "---\nlicense: [1, 2]\nlanguage: 3\n---\n"])
def test_a_card_that_says_nothing(card: str | None, bert: Family, tmp_path: Path) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card, encoding="utf-8")
    found = about(recipe(tmp_path, "./x", base="./y"), tmp_path, bert)
    assert found == About(name="x", pipeline_tag="sentence-similarity")


@pytest.mark.parametrize(
    "text",
    [
        "license: [apache",
        "license: " + "[" * 5000,
        "license: !!python/name:os.system",
        f"a: {'x' * (1 << 20)}",
    ],
    ids=["not closed", "without end", "code", "large"],
)
def test_a_broken_card_is_told(
    text: str, bert: Family, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "README.md").write_text(f"---\n{text}\n---\n", encoding="utf-8")
    assert about(recipe(tmp_path, "./x", base="./y"), tmp_path, bert).license is None
    assert "README.md: its front matter cannot be read" in caplog.text
