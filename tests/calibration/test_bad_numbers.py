"""Numbers that a calibration cannot work with: each is an error that names its tensor or layer."""

from dataclasses import replace

import pytest
import torch

from epmq_export.calibration.method import PRESETS
from epmq_export.errors import CalibrationError, InputError
from epmq_export.grids.layout import Layout
from tests.tiny.calibrated_bert import Tiny, calibrated, tiny
from tests.tiny.in_memory import InMemory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return tiny(tmp_path_factory.mktemp("tiny") / "model")


def spoiled(source: InMemory, name: str, value: float) -> InMemory:
    tensors = dict(source.tensors)
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[5] = value
    return InMemory(tensors)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("embeddings.word_embeddings.weight", torch.nan),
        ("embeddings.word_embeddings.weight", 1e38),  # beyond float16
        ("embeddings.LayerNorm.weight", torch.inf),
        ("encoder.layer.0.attention.self.key.weight", torch.nan),
        ("encoder.layer.0.attention.self.key.weight", 1e38),  # beyond any scale
        ("encoder.layer.0.output.dense.bias", torch.inf),
    ],
)
def test_a_bad_number_in_the_merge_is_an_error_that_names_the_tensor(
    model: Tiny, preset: str, name: str, bad: float
) -> None:
    with pytest.raises(CalibrationError, match=name.rsplit(".", 1)[0].replace(".", r"\.")) as error:
        calibrated(model.calibrator(preset, merged=spoiled(model.merged, name, bad)))
    assert "\n" not in str(error.value)


def test_a_bad_number_in_an_embedding_on_a_grid_is_named_too(model: Tiny) -> None:
    name = "embeddings.word_embeddings.weight"
    with pytest.raises(
        CalibrationError,
        match=r"^embeddings\.word_embeddings\.weight: a weight is not finite, so no Q4_0 scale fits it",
    ):
        calibrated(
            model.calibrator(
                "rtn", layout=Layout(embeddings="Q4_0"), merged=spoiled(model.merged, name, torch.nan)
            )
        )


@pytest.mark.parametrize("preset", ["regmean", "epmq", "featcal"])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_bad_number_in_an_expert_is_an_error_that_names_the_layer(
    model: Tiny, preset: str, bad: float
) -> None:
    name = "encoder.layer.1.intermediate.dense.weight"
    experts = [model.experts[0], spoiled(model.experts[1], name, bad), model.experts[2]]
    with pytest.raises(CalibrationError, match=r"encoder\.layer\.1\.(intermediate\.dense|output)") as error:
        calibrated(model.calibrator(preset, model.tasks(experts)))
    assert "NaN" in str(error.value)


def test_without_damping_few_texts_leave_a_singular_hessian(model: Tiny) -> None:
    method = replace(PRESETS["regmean"], damping=0.0)
    with pytest.raises(
        CalibrationError,
        match=(
            r"encoder\.layer\.0\.attention\.self\.query: its Hessian is singular at input channel \d+; "
            r"raise calibration\.lambda"
        ),
    ):
        calibrated(model.calibrator(method, model.tasks(count=2)))


def test_a_model_of_another_shape_is_refused(model: Tiny) -> None:
    short = InMemory({**model.merged.tensors, "encoder.layer.1.output.dense.bias": torch.zeros(3)})
    with pytest.raises(
        InputError,
        match=(
            r"tensor encoder\.layer\.1\.output\.dense\.bias has shape \[3\], expected \[64\] by "
            r"config\.json"
        ),
    ):
        calibrated(model.calibrator("rtn", merged=short))
