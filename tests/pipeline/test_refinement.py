"""What is refined where a recipe leaves it to the model and its samples."""

from dataclasses import replace

import pytest

from converters import open_family
from epmq_export.calibration.refinement import AFFINE, LESSONS, PASSES, WHOLE, WHOLE_LESSONS, Refinement
from epmq_export.models.family import Family
from epmq_export.pipeline.refinement import FEWEST, lessons_of, refinement_of
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
    return refinement_of(recipe, family, samples, samples)


def test_biases_and_norms_of_a_model_that_embeds_are_refined(encoder: Family, language: Family) -> None:
    assert asked(encoder, FEWEST) == AFFINE
    assert asked(encoder, FEWEST - 1) is None
    assert asked(language, FEWEST) is None
    assert asked(encoder, FEWEST, method="gptq") is None
    assert asked(encoder, FEWEST, effort="fast") is None


def test_biases_and_norms_see_every_sample(encoder: Family) -> None:
    """A step takes 32 samples, and one in eight is held out: 4,096 are 112 steps once through."""
    recipe = Recipe.model_construct(calibration=RecipeCalibration())
    assert refinement_of(recipe, encoder, 64, 4096) == replace(AFFINE, steps=112 * PASSES)
    whole = Recipe.model_construct(calibration=RecipeCalibration(refine=600))
    assert refinement_of(whole, encoder, 64, 4096) == replace(WHOLE, steps=600)


def test_language_models_are_refined_on_what_they_are_calibrated_on(
    encoder: Family, language: Family
) -> None:
    for calibration, wanted in (({}, LESSONS), ({"refine": 300}, WHOLE_LESSONS), ({"refine": False}, 0)):
        recipe = Recipe.model_construct(calibration=RecipeCalibration.model_validate(calibration))
        assert lessons_of(recipe, encoder) == wanted and lessons_of(recipe, language) == 0


def test_what_a_recipe_says_is_done(encoder: Family, language: Family) -> None:
    for family in (encoder, language):
        assert asked(family, 8, refine="affine", method="gptq") == AFFINE
        assert asked(family, 8, refine=True) == WHOLE
        assert asked(family, FEWEST, refine=False) is None
        assert asked(family, 512, effort="best") == replace(WHOLE, steps=1200)
