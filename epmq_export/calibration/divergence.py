"""The divergence of a model's outputs from an expert's, which needs no labels."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from epmq_export.models.heads import Reading


def divergence(outputs: Tensor, expert: Tensor, head: Reading | None) -> Tensor:
    """Return the divergence of each row of outputs, [n, width], from the expert's outputs, float32 [n]. It is
    0 where they agree, and never below.

    With a head it is KL(expert || ours) of the two distributions over the head's classes. It then compares
    what the task reads and leaves the rest of the output free. Without a head it is 1 - cosine.
    """
    outputs, expert = outputs.float(), expert.float()
    if head is None:
        return (1 - cosine_similarity(outputs, expert)).clamp_min(0)
    ours, theirs = (torch.log_softmax(head.logits(rows), 1) for rows in (outputs, expert))
    return (theirs.exp() * (theirs - ours)).sum(1).clamp_min(0)
