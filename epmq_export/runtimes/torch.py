"""The reference: a family's own modules in PyTorch, float32, with the weights of any source."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from epmq_export.calibration.forward import load_block, run_block
from epmq_export.family import Batch, Family, TensorSource

BATCH = 32


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def outputs(family: Family, source: TensorSource, texts: Sequence[str], device: torch.device) -> NDArray[np.float32]:
    """The family's outputs [len(texts), width], block by block: one block's weights are in memory at a time."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # alike lengths together: little padding
    batches: list[Batch] = [*family.batches([texts[i] for i in order], BATCH)]
    hidden: list[torch.Tensor | None] = [None] * len(batches)
    for block in family.blocks:
        module = load_block(block, source, device)
        for b, batch in enumerate(batches):
            hidden[b] = run_block(block, module, hidden[b], batch, device)
    result = torch.cat([family.output(h, {k: v.to(device) for k, v in batch.items()}) for h, batch in zip(hidden, batches, strict=True) if h is not None])
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return result.cpu()[back].float().numpy()
