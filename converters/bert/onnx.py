"""BERT and its like as one ONNX model."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from converters.bert.relative import table_once
from converters.bert.sentence import Sentence
from converters.shared.classifiers import Scored
from converters.shared.onnx import head_parts, tower_parts
from epmq_export.models.family import Family
from epmq_export.models.specs import OnnxPart, OnnxSpec
from epmq_export.tensors.directory import WEIGHTS


def onnx_spec(
    family: Family, names: Sequence[str], sentence: Sentence, scored: Scored | None = None
) -> OnnxSpec:
    """Return the model, whose inputs are `names`: `last_hidden_state` for feature-extraction pipelines, which
    pool themselves, and `sentence_embedding`, pooled, and of length 1 where the model makes it so. With
    classifiers it has the scores of each in place of this one.
    """
    tokens = {0: "batch", 1: "sequence"}
    inputs = dict.fromkeys(names, tokens)
    # Two rows of three: the exporter takes an axis of length 0 or 1 for a constant.
    example = {name: torch.ones(2, 3, dtype=torch.int64) for name in inputs}
    blocks, before = table_once(family.blocks)
    given = [*inputs, *(name for part in before for name in part.makes)]
    if scored is not None:
        encoder = tower_parts(blocks[:-1], given, ["last_hidden_state"])
        heads = head_parts(scored, ["last_hidden_state", "attention_mask"])
        return OnnxSpec(
            parts=[*before, *encoder, *heads],
            example=example,
            inputs=inputs,
            outputs={
                "last_hidden_state": tokens,
                **{name: {0: "batch"} for head in heads for name in head.makes},
            },
            towers=[family],
        )

    def pooled(module: nn.Module, hidden: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        return (family.output(hidden, {"attention_mask": attention_mask}),)

    # With Dense modules, the last block pools.
    values = ["last_hidden_state", *(["pooled"] if sentence.dense else [])]
    pooling = OnnxPart(
        run=pooled,
        reads=[values[-1], "attention_mask"],
        makes=["sentence_embedding"],
    )
    return OnnxSpec(
        parts=[*before, *tower_parts(blocks, given, values), pooling],
        example=example,
        inputs=inputs,
        outputs={"last_hidden_state": tokens, "sentence_embedding": {0: "batch"}},
        towers=[family],
        beside_weights={
            f"{dense.place}/{WEIGHTS}": {
                f"linear.{kind}": f"{dense.place}.linear.{kind}"
                for kind in ("weight", *(["bias"] if dense.bias else []))
            }
            for dense in sentence.dense
        },
    )
