"""The costs of a forecast, held against arithmetic by hand."""

from dataclasses import replace
from pathlib import Path

import pytest

from converters import open_family
from epmq_export.calibration.calibrator import BATCH
from epmq_export.calibration.method import PRESETS
from epmq_export.calibration.refinement import TRIAL, Refinement
from epmq_export.models.hard_texts import HARD_TEXTS
from epmq_export.models.reference import TOKENS, batches
from epmq_export.pipeline.forecast import around, costs
from epmq_export.pipeline.forecast.around import around_of, merged_at_once
from epmq_export.pipeline.forecast.checking import READ, Checked, checked_of, checking_seconds
from epmq_export.pipeline.forecast.costs import Samples, Shape, Speed, Step
from epmq_export.pipeline.forecast.planned import tensor_shapes
from epmq_export.pipeline.forecast.refining import refining_of
from epmq_export.pipeline.forecast.verifying import VerifyForecast, verifying_of
from epmq_export.recipe.load import load_recipe
from tests.tiny import decoder, recipe_project

BLOCK = Shape(
    "block",
    10_000,
    (Step(("norm",), 8, ()), Step(("q", "k", "v"), 8, (8, 8, 8)), Step(("up",), 8, (32,))),
    8,
    32,
    256,
)


def test_operations_by_hand() -> None:
    samples = Samples(tasks=2, samples=10, tokens=5.0, exact=True)
    rows, both = 50, PRESETS["anchored"]
    forward = 2 * rows * 8 * (24 + 32) + 4 * rows * 5 * 8
    assert BLOCK.forward(rows, 5) == forward
    found = costs.work_of([BLOCK], samples, both, 7)
    assert found.forward == pytest.approx(forward * (1 + 1)) and found.embeddings == 7
    assert found.statistics == 3 * 3.25 * rows * 64
    assert found.solve == pytest.approx(2 * 8**3 * 4 / 3 + (3 * 2 + 4) * (24 + 32) * 64)
    assert found.columns == pytest.approx(2.8 * 16)
    plain = costs.work_of([BLOCK], samples, PRESETS["epmq"], 0)  # no experts are run, norms stay
    assert plain.statistics == 2 * 1.25 * rows * 64
    assert plain.forward == pytest.approx(forward)
    assert plain.columns == 16
    assert costs.work_of([BLOCK], samples, PRESETS["rtn"], 0).columns == 0
    assert costs.passes_of([BLOCK], samples, both) == {"batches": 2, "student": 2 * 3, "experts": 2}


def test_a_mixtures_experts_get_a_share_of_the_rows_and_one_pass_together() -> None:
    """Two experts of four inputs, one of which is chosen."""
    samples = Samples(tasks=1, samples=10, tokens=5.0, exact=True)
    experts = [
        Step((f"{expert}.{path}",), width, (outputs,), 0.5)
        for expert in range(2)
        for path, width, outputs in (("up", 8, 4), ("down", 4, 8))
    ]
    block = replace(BLOCK, steps=(*BLOCK.steps[:2], *experts))
    rows = 50
    forward = 2 * rows * 8 * 24 + 4 * rows * 5 * 8 + 2 * rows * (8 * 4 + 4 * 8)
    assert block.forward(rows, 5) == forward and block.ends == [0, 1, 2]
    found = costs.work_of([block], samples, PRESETS["epmq"], 0)
    assert found.statistics == 1.25 * rows * (64 + 64 + 16)
    assert found.columns == 8 + 2 * (8 + 4)
    assert costs.passes_of([block], samples, PRESETS["epmq"])["student"] == 2


def test_where_memory_has_no_room_the_student_starts_again_for_every_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = Samples(tasks=2, samples=10, tokens=5.0, exact=True)
    monkeypatch.setattr(costs, "_bound", lambda: 0)
    found = costs.work_of([BLOCK], samples, PRESETS["anchored"], 0).forward
    assert found == pytest.approx(BLOCK.forward(50, 5) * (0.5 / 3 + 1.5 / 3 + 2.5 / 3 + 1 + 1))


def test_memory_does_not_grow_past_the_bound() -> None:
    few, many = (
        costs.memory_of([BLOCK], Samples(1, count, 100.0, True), PRESETS["anchored"], 0.0, [256])
        for count in (BATCH, 10**6)
    )
    assert few.spilled == 0 and few.activations < many.activations == 2 << 30
    assert many.peak - few.peak == pytest.approx((many.activations - few.activations) * 1.2, abs=1)
    assert many.spilled > 0 and (few.weights, few.statistics, few.forward) == (
        many.weights,
        many.statistics,
        many.forward,
    )


def test_the_mask_of_an_attention_is_part_of_a_forward_pass() -> None:
    short, long = (
        costs.memory_of([BLOCK], Samples(1, BATCH, tokens, True), PRESETS["anchored"], 0.0, [256]).forward
        for tokens in (100.0, 200.0)
    )
    assert long - 2 * short == BATCH * (200**2 - 2 * 100**2) * (4 + 1)


def test_a_block_that_is_merged_in_pieces_holds_one() -> None:
    samples = Samples(1, BATCH, 100.0, True)
    whole, piece = (
        costs.memory_of([BLOCK], samples, PRESETS["anchored"], 0.0, [count]).merging for count in (256, 64)
    )
    assert (whole, piece) == (4 * 256 * 4, 4 * 64 * 4)


@pytest.mark.parametrize(("rule", "tables", "linears"), [("tsvm", 1, 0), ("linear", 1, 1), ("karcher", 0, 0)])
def test_what_of_a_block_is_merged_at_a_time(
    project: recipe_project.Project, rule: str, tables: bool, linears: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(around, "PIECE", 1000)
    family = open_family(project.directory / "base")
    recipe = load_recipe(project.directory / "recipe.yaml").model_copy(update={"merge_method": rule})
    whole = [costs.shape_of(block).largest for block in family.blocks[:2]]
    expected = [1000 if pieces else count for pieces, count in zip((tables, linears), whole, strict=True)]
    assert merged_at_once(recipe, family)[:2] == expected


@pytest.mark.parametrize("kind", ["llama, tied", "phi3"])
def test_an_attention_has_a_width_whether_one_linear_makes_its_parts_or_three(
    kind: str, tmp_path: Path
) -> None:
    family = open_family(decoder.write(tmp_path / "model", kind))
    widths = [costs.shape_of(block).attention for block in family.blocks]
    assert widths == [0, *[decoder.WIDTH] * family.config.num_hidden_layers, 0]


def test_verifying(project: recipe_project.Project) -> None:
    family, text = open_family(project.directory / "base"), "a word " * 400
    (batch,) = family.batches([family.truncate(text)], 1)
    width = batch["input_ids"].shape[1]
    rows = min(32, TOKENS // width) * width
    hard = [family.truncate(each) for each in sorted(HARD_TEXTS, key=len)]
    states = sum(batch["input_ids"].numel() for batch in batches(family, hard))
    verifying = verifying_of(family, [BLOCK], tensor_shapes(family), [text] * 100, 5.0, 7.0)
    forward = rows * (8 * 8 + 2 * 32) * 4 + rows * width * 5
    assert verifying == VerifyForecast(states * 8 * 4, (10_000 + 2 * 256) * 4 + forward, 7)
    more = verifying_of(family, [BLOCK], tensor_shapes(family), [text] * 100, 1e6, 7.0)
    assert more == replace(verifying, outputs=2 << 30)  # The rest is spilled.
    few = verifying_of(family, [BLOCK], tensor_shapes(family), [text] * 65, 5.0, 7.0)
    assert few == verifying  # The last batch has one line, and the one before it 32.


def test_a_language_model_is_verified_with_its_scores_and_its_cache(tmp_path: Path) -> None:
    family = open_family(decoder.write(tmp_path, "llama"))
    shapes = tensor_shapes(family)
    alone, within = (verifying_of(family, [BLOCK], shapes, [], 5.0, size) for size in (0.0, 1000.0))
    vocabulary = shapes["model.embed_tokens.weight"][0]
    assert alone.outputs == within.outputs > 4 * 1024 * vocabulary * 4
    assert alone.runtime == 0 and alone.reference == within.reference
    assert (within.runtime - 1000) % (2 * (8 + 8) * 4) == 0 < within.runtime - 1000  # Keys and values of 8.


def test_refining() -> None:
    samples, weights = Samples(tasks=2, samples=64, tokens=5.0, exact=True), 8 * (24 + 32)
    found = refining_of([BLOCK], samples, Refinement(100), 2, Speed(1e6, 1e6, 1e-6))
    batch, whole = BLOCK.forward(32 * 5, 5), BLOCK.forward(64 * 5, 5)
    expected = 2 * 2 * (100 * (3 * batch + 300 * weights) + (1 + 10 / 8) * whole) / 1e6
    assert found.seconds == pytest.approx((expected / 1.5, expected * 1.5)) and found.steps == 100
    kept = 4 * 8 + 8 + (8 + 24) + (8 + 32)
    assert found.memory == (10_000 - weights) * 4 + weights * 25 + 32 * 5 * kept * 4
    found = refining_of([BLOCK], samples, Refinement(100, weights=False), 2, Speed(1e6, 1e6, 1e-6))
    expected = 2 * 2 * (100 * 2 * batch + (1 + 10 / 8) * whole) / 1e6
    assert found.seconds[0] == pytest.approx(expected / 1.5)
    assert found.memory == 10_000 * 4 + 32 * 5 * kept * 4
    trials = Refinement(100, weights=False, faster=(1.0, 2.0))
    found = refining_of([BLOCK], samples, trials, 2, Speed(1e6, 1e6, 1e-6))
    expected = 2 * 2 * ((100 + 3 * TRIAL) * 2 * batch + (1 + (10 + 3) / 8) * whole) / 1e6
    assert found.seconds[0] == pytest.approx(expected / 1.5)


def test_refining_a_model_that_is_not_held() -> None:
    """The memory is that of one block and of what stands between blocks, however many there are."""
    blocks = [replace(BLOCK, numbers=400_000_000)] * 2
    samples = Samples(tasks=2, samples=64, tokens=5.0, exact=True)
    found = refining_of(blocks, samples, Refinement(100, weights=False), 1, Speed(1e6, 1e6, 1e-6))
    batch, whole = 2 * BLOCK.forward(32 * 5, 5), 2 * BLOCK.forward(64 * 5, 5)
    decoded = 2 * 500 * 800_000_000
    expected = 2 * (100 * (3 * batch + decoded) + (1 + 10 / 8) * whole) / 1e6
    assert found.seconds[0] == pytest.approx(expected / 1.5)
    kept = 4 * 8 + 8 + (8 + 24) + (8 + 32)
    assert found.memory == 400_000_000 * 4 + 32 * 5 * (kept + 2 * BLOCK.steps[0].width) * 4


def test_what_stands_around_a_calibration() -> None:
    sizes = [((0.0, 0.0), 2_000_000_000, 1), ((2.0, 35.0), 1_000_000_000, 2)]
    found = around_of(4.0, [BLOCK], 100, 5.0, 6, sizes, (1.0, 10.0), Speed(1e6, 1e6, 1e-6))
    once = BLOCK.forward(500, 5) / 1e6
    assert found.merge == (4.0, 12.0)
    assert found.write == pytest.approx((2 + 1 + 2, 20 + 10 + 35))
    assert found.score == pytest.approx((4 * once + 0.6, 12 * once + 9))
    assert found.verify == pytest.approx((2 * 3 * once + 6 + 3, 3 * 2 * 3 * once + 45 + 30))
    assert found.whole[0] == pytest.approx(4 + 5 + 10 * once + 9.6)
    assert replace(found, merge=None).whole[1] == pytest.approx(found.whole[1] - 12)


def test_hard_texts_are_padded_to_less_than_twice_their_tokens(tmp_path: Path) -> None:
    """Count what batches of similar length take: in batches of any length it would be four times as much."""
    checked = checked_of(open_family(decoder.write(tmp_path, "llama")))
    assert checked.tokens < checked.padded < 2 * checked.tokens


def test_the_graph_check_reads_some_tokens_one_by_one() -> None:
    speed = Speed(1e6, 1e6, 1e-6)
    together = Checked(tokens=500, padded=700, apart=0, longest=5)
    both, size = BLOCK.forward(1200, 5) / 1e6, BLOCK.numbers * 4
    found = checking_seconds(together, [BLOCK], speed, (1e3, 1e4))
    assert found == pytest.approx((size / 1e4 + both, size / 1e3 + 3 * both))
    more = checking_seconds(replace(together, apart=6), [BLOCK], speed, (1e3, 1e4))
    assert more == pytest.approx((found[0] + 6 * size / READ[1], found[1] + 6 * size / READ[0]))


def test_time_counts_every_part_and_every_calibration() -> None:
    work, speed = costs.Work(3e6, 2e6, 4e6, 500, 1000), Speed(1e6, 2e6, 1e-3)
    expected = 2 * (3 + 2) + 1000 * 12_000 / 1e6 + 4 / 2 + 0.5
    assert costs.seconds_of(work, speed, (1, 3)) == pytest.approx((expected / 1.5, 3 * expected * 1.5))
