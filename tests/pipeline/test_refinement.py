"""What is refined where a recipe leaves it to the model and its samples."""

import pytest

from converters import open_family
from epmq_export.calibration.refinement import AFFINE, WHOLE, Refinement
from epmq_export.models.family import Family
from epmq_export.pipeline.refinement import FEWEST, refinement_of
from epmq_export.recipe.recipe import Recipe, RecipeCalibration
from tests.tiny import decoder
from tests.tiny.bert import small_bert


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return open_family(small_bert(tmp_path_factory.mktemp("encoder") / "model"))


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return open_family(decoder.write(tmp_path_factory.mktemp("language") / "model", "llama"))


def asked(family: Family, samples: int, **calibration: object) -> Refinement | None:
    recipe = Recipe.model_construct(calibration=RecipeCalibration.model_validate(calibration))
    return refinement_of(recipe, family, samples)


def test_biases_and_norms_of_a_model_that_embeds_are_refined(encoder: Family, language: Family) -> None:
    assert asked(encoder, FEWEST) == AFFINE
    assert asked(encoder, FEWEST - 1) is None
    assert asked(language, FEWEST) is None
    assert asked(encoder, FEWEST, method="gptq") is None
    assert asked(encoder, FEWEST, effort="fast") is None


def test_what_a_recipe_says_is_done(encoder: Family, language: Family) -> None:
    for family in (encoder, language):
        assert asked(family, 8, refine="affine", method="gptq") == AFFINE
        assert asked(family, 8, refine=True) == WHOLE
        assert asked(family, FEWEST, refine=False) is None
        assert asked(family, 512, effort="best") == Refinement(600)
