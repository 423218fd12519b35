"""BERT as one ONNX model."""

import torch
from torch import Tensor

from converters.shared.blocks import Tower
from epmq_export.models.family import Batch, Family
from epmq_export.models.specs import OnnxSpec


def onnx_spec(family: Family) -> OnnxSpec:
    """Return the model: `last_hidden_state` for feature-extraction pipelines, which pool themselves, and
    `sentence_embedding`, pooled and unnormalised.
    """
    tokens = {0: "batch", 1: "sequence"}
    inputs = dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), tokens)

    def outputs(before: Tensor, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        return hidden, family.output(hidden, batch)

    return OnnxSpec(
        build=lambda source: Tower(source, family.blocks, [*inputs], outputs),
        # Two rows of three: the exporter takes an axis of length 0 or 1 for a constant.
        example={name: torch.ones(2, 3, dtype=torch.int64) for name in inputs},
        inputs=inputs,
        outputs={"last_hidden_state": tokens, "sentence_embedding": {0: "batch"}},
        towers=[family],
    )
