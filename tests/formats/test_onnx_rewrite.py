"""The rules that rewrite traced nodes: each makes what the exporter's nodes make, in its own form."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

from epmq_export.models.rms_norm import RmsNorm
from epmq_export.models.specs import OnnxPart, OnnxSpec
from epmq_export.verification.runtimes.onnxruntime.runtime import open_session
from formats.onnx import rewrite as rules
from formats.onnx import trace as tracing
from formats.onnx.trace import trace
from tests.formats.test_onnx_trace import checkpoint
from tests.tiny.decoder_files import decoder_files

BATCH, QUERIES, GROUPS, NEW, ALL, WIDTH = 2, 6, 2, 3, 5, 8


@dataclass(frozen=True)
class Case:
    rule: rules.Rule
    run: Callable[..., Tensor]
    given: Sequence[Tensor]
    axes: Sequence[dict[int, str]]
    gone: Sequence[str]
    exact: bool


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask.bool())


def grouped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    times = QUERIES // GROUPS
    return attention(query, repeat_kv(key, times), repeat_kv(value, times), mask)


def joined(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    found = attention(query, key, value, mask)
    same = found.reshape(found.shape[0], -1, found.shape[2], WIDTH)  # as transformers has it
    return same.transpose(1, 2).reshape(found.shape[0], found.shape[2], -1)


def normalised(x: Tensor) -> Tensor:
    return RmsNorm(WIDTH, 1e-5).normalised(x)


def turned(query: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    found: Tensor = apply_rotary_pos_emb(query, query, cosine, sine)[0]
    return found


def attended(heads: int) -> tuple[list[Tensor], list[dict[int, str]]]:
    """Return queries, keys and values, and a mask, in which a row sees nothing, as padding on the left
    does.
    """
    torch.manual_seed(0)
    mask = torch.ones(BATCH, 1, NEW, ALL, dtype=torch.int64)
    mask[1, :, :, :2] = 0
    mask[1, :, 0] = 0
    kept = torch.randn(2, BATCH, heads, ALL, WIDTH)
    old = {0: "batch", 2: "all"}
    return (
        [torch.randn(BATCH, QUERIES, NEW, WIDTH), *kept, mask],
        [{0: "batch", 2: "new"}, old, old, {0: "batch", 2: "new", 3: "all"}],
    )


def case(rule: rules.Rule) -> Case:
    if rule is rules.rms_norm:
        return Case(rule, normalised, [torch.randn(2, 3, WIDTH)], [{0: "b", 1: "t"}], ["Reciprocal"], False)
    if rule is rules.rotation:
        axes = {0: "batch", 1: "new"}
        angles = [torch.randn(BATCH, NEW, WIDTH) for _ in range(2)]
        return Case(
            rule,
            turned,
            [torch.randn(BATCH, QUERIES, NEW, WIDTH), *angles],
            [{0: "batch", 2: "new"}, axes, axes],
            ["Slice"],
            True,
        )
    run, gone = {
        rules.softmax: (attention, ["IsNaN", "Where"]),
        rules.transposed_keys: (attention, ["Slice", "Shape"]),
        rules.grouped_queries: (grouped, ["Expand"]),
        rules.same_shape: (joined, ["Reshape"]),
    }[rule]
    given, axes_of = attended(GROUPS if run is grouped else QUERIES)
    return Case(rule, run, given, axes_of, gone, run is not grouped)


def traced(of: Case) -> ModelProto:
    """Return what the tracing makes of a case, its inputs numbered."""
    names = [f"in.{place}" for place in range(len(of.given))]
    part = OnnxPart(run=lambda module, *given: (of.run(*given),), reads=names, makes=["out"])
    spec = OnnxSpec(
        parts=[part],
        example=dict(zip(names, of.given, strict=True)),
        inputs=dict(zip(names, of.axes, strict=True)),
        outputs={"out": {}},
        towers=[],
    )
    return trace(spec, checkpoint({}))[0]


@pytest.fixture
def translated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch's exporter translate the first graph of a test alone, which its others rewrite anew."""
    translate, kept = tracing._translated, list[bytes]()

    def once(*given: Any) -> ModelProto:
        if not kept:
            kept.append(translate(*given).SerializeToString())
        return ModelProto.FromString(kept[0])

    monkeypatch.setattr(tracing, "_translated", once)


def computed(model: ModelProto, given: Sequence[Tensor]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feed = {f"in.{place}": value.numpy() for place, value in enumerate(given)}
    found: NDArray[np.float32] = session.run(None, feed)[0]
    return found


def operators(graph: GraphProto) -> Counter[str]:
    """Count the operators that the output depends on."""
    wanted, found = {value.name for value in graph.output}, Counter[str]()
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            found[node.op_type] += 1
            wanted.update(node.input)
    return found


@pytest.mark.usefixtures("traced_anew", "translated_once")  # It leaves out a rule.
@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: str(rule.__name__))
def test_a_rule_makes_the_same_in_its_own_form(rule: rules.Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    of = case(rule)
    needs = [rules.softmax, rules.transposed_keys] if rule is rules.grouped_queries else []
    monkeypatch.setattr(rules, "RULES", [])
    before = traced(of)
    monkeypatch.setattr(rules, "RULES", [*needs, rule])
    after = traced(of)
    onnx.checker.check_model(after, full_check=True)
    found, expected = operators(after.graph), operators(before.graph)
    assert all(expected[name] > found[name] for name in of.gone)
    results = computed(after, of.given), computed(before, of.given)
    assert np.isfinite(results[0]).all()
    if of.exact:
        np.testing.assert_array_equal(*results)
    else:
        np.testing.assert_allclose(*results, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("traced_anew", "translated_once")
def test_what_only_resembles_a_pattern_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def a_quarter_turns(query: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        low, high = query[..., : WIDTH // 4], query[..., WIDTH // 4 :]
        return query * cosine[:, None] + torch.cat((-high, low), -1) * sine[:, None]

    of = replace(case(rules.rotation), run=a_quarter_turns)
    kept = operators(traced(of).graph)
    monkeypatch.setattr(rules, "RULES", [])
    assert operators(traced(of).graph) == kept


@pytest.mark.parametrize("kind", ["llama, tied", "qwen3", "gemma3"])
def test_onnx_runtime_fuses_norms_and_products(kind: str, tmp_path: Path) -> None:
    files = decoder_files(kind)
    open_session(files.onnx, optimised=tmp_path / "optimised.onnx")
    graph: Any = onnx.load(tmp_path / "optimised.onnx", load_external_data=False).graph
    found = Counter(node.op_type for node in graph.node)
    layers = files.family.config.num_hidden_layers
    assert found["FusedMatMul"] >= layers
    assert not {"IsNaN", "Reciprocal", "Expand", "Slice"} & found.keys()
    assert found["SimplifiedLayerNormalization"] >= 2 * layers
