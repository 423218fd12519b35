"""What a two-tower model's file holds beside the calibrated blocks."""

import pytest
import torch
from torch import Tensor

from epmq_export.calibration.calibrator import BlockResult, Calibrator, TaskData
from epmq_export.calibration.method import PRESETS
from epmq_export.calibration.storage import carried_linears
from epmq_export.calibration.uncalibrated import TOGETHER, rest
from epmq_export.grids import GRIDS
from epmq_export.grids.layout import FULL, Layout
from epmq_export.tensors.packed import PackedTensor
from tests.tiny.calibrated_bert import CPU, calibrated, flat, same_bits, tiny
from tests.tiny.shallow_clip import QUERY, TEXT_QUERY, TinyClip, clip, moved, opened, pictures

TOKENS, PATCHES = (
    "text_model.embeddings.token_embedding.weight",
    "vision_model.embeddings.patch_embedding.weight",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TinyClip:
    return opened(clip(tmp_path_factory.mktemp("clip")))


def carried(model: TinyClip, layout: Layout, together: int = TOGETHER) -> BlockResult:
    results = [*rest(model.family, model.base, layout, together)]
    return BlockResult(flat(results), [], [note for result in results for note in result.notes])


def calibrator(
    model: TinyClip, layout: Layout | None = None, preset: str = "featcal", **other: int
) -> Calibrator:
    tasks = [TaskData(f"task{t}", moved(model.base, t + 1), pictures(5, t)) for t in range(2)]
    return Calibrator(
        model.family,
        model.base,
        moved(model.base, 9),
        tasks,
        PRESETS[preset],
        layout or Layout(),
        CPU,
        **other,
    )  # type: ignore[arg-type]


def test_the_text_towers_linears_are_what_patterns_may_match(model: TinyClip) -> None:
    names = carried_linears(model.family)
    assert len(names) == 12 and TEXT_QUERY in names
    assert all(
        name.startswith("text_model.encoder.layers.") and model.base.load(name).ndim == 2 for name in names
    )


def test_a_text_encoder_has_none_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    bert = tiny(tmp_path_factory.mktemp("bert") / "model")
    assert carried_linears(bert.family) == []
    assert [*rest(bert.family, bert.base, Layout())] == []


def test_blocks_and_rest_are_the_whole_model(model: TinyClip) -> None:
    in_blocks, beside = flat(calibrated(calibrator(model, preset="rtn"))), carried(model, Layout()).tensors
    assert not in_blocks.keys() & beside.keys()
    assert sorted(in_blocks.keys() | beside.keys()) == list(model.base.names())


def test_few_of_them_at_a_time_are_the_same(model: TinyClip) -> None:
    layout = Layout(embeddings="Q8_0")
    few = [*rest(model.family, model.base, layout, together=40_000)]
    largest = max(4 * model.base.load(name).numel() for result in few for name in result.tensors)
    sizes = [sum(4 * model.base.load(name).numel() for name in result.tensors) for result in few]
    assert len(few) > 3 and max(sizes) <= max(40_000, largest)
    whole = carried(model, layout)
    assert same_bits([carried(model, layout, together=40_000)], [whole])


def test_linears_and_tokens_are_halved_and_all_else_is_as_it_was(model: TinyClip) -> None:
    found = carried(model, Layout(embeddings="F16"))
    assert found.notes == [] and found.losses == []
    half = {
        name
        for name, value in found.tensors.items()
        if isinstance(value, Tensor) and value.dtype == torch.float16
    }
    assert half == {*carried_linears(model.family), TOKENS}
    for name, value in found.tensors.items():
        assert isinstance(value, Tensor)
        assert torch.equal(value, model.base.load(name).to(value.dtype)), name


def test_a_pattern_puts_one_of_them_on_a_grid_and_tells_it(model: TinyClip) -> None:
    found = carried(
        model,
        Layout(
            embeddings="Q8_0",
            overrides={"text_model.*.0.self_attn.q_proj.weight": "Q8_0", "*.1.mlp.fc1.weight": "F32"},
        ),
    )
    on_grid = {
        name: value.grid.name for name, value in found.tensors.items() if isinstance(value, PackedTensor)
    }
    assert on_grid == {TEXT_QUERY: "Q8_0", TOKENS: "Q8_0"}
    packed = found.tensors[TEXT_QUERY]
    assert isinstance(packed, PackedTensor)
    assert torch.equal(packed.codes, GRIDS["Q8_0"].quantise(model.base.load(TEXT_QUERY))[0])
    other = found.tensors["text_model.encoder.layers.1.mlp.fc1.weight"]
    assert isinstance(other, Tensor) and other.dtype == torch.float32
    assert found.notes == [
        (
            "text_model.encoder.layers.0.self_attn.q_proj.weight is stored on Q8_0, as "
            "'text_model.*.0.self_attn.q_proj.weight' asks"
        ),
        "text_model.encoder.layers.1.mlp.fc1.weight stays F32, as '*.1.mlp.fc1.weight' asks",
    ]


def test_where_nothing_is_rounded_the_rest_is_not_either(model: TinyClip) -> None:
    tensors = carried(model, FULL).tensors | flat(calibrated(calibrator(model, FULL, "regmean")))
    assert {value.dtype for value in tensors.values() if isinstance(value, Tensor)} == {torch.float32}
    assert torch.equal(tensors[TEXT_QUERY], model.base.load(TEXT_QUERY))  # type: ignore[arg-type]


def test_what_a_runtime_takes_in_half_precision_alone_is_halved(model: TinyClip) -> None:
    patches = flat(calibrated(calibrator(model, preset="rtn")))[PATCHES]
    assert isinstance(patches, Tensor) and patches.dtype == torch.float16


@pytest.mark.parametrize("bound", [0, 60_000, 200_000])
def test_pictures_and_activations_on_disk_give_the_same_bits(model: TinyClip, bound: int) -> None:
    assert same_bits(calibrated(calibrator(model, activation_bytes=bound)), calibrated(calibrator(model)))


def test_the_image_towers_linears_are_on_the_grid(model: TinyClip) -> None:
    found = flat(calibrated(calibrator(model)))
    on_grid = {name for name, value in found.items() if isinstance(value, PackedTensor)}
    assert (
        len(on_grid) == 12
        and QUERY in on_grid
        and all(name.startswith("vision_model.encoder.layers.") for name in on_grid)
    )
