"""How far a model's outputs are from an expert's, without anyone's labels."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from epmq_export.models.heads import Reading


def divergence(outputs: Tensor, expert: Tensor, head: Reading | None) -> Tensor:
    """Of each row of outputs [n, width] from the expert's, float32 [n]; 0 where they agree, never below.

    With a head: KL(expert || ours) of the two distributions over its classes. It asks for what the task
    reads, and leaves the rest of the output free. Without one: 1 - cosine.
    """
    outputs, expert = outputs.float(), expert.float()
    if head is None:
        return (1 - cosine_similarity(outputs, expert)).clamp_min(0)
    ours, theirs = (torch.log_softmax(head.logits(rows), 1) for rows in (outputs, expert))
    return (theirs.exp() * (theirs - ours)).sum(1).clamp_min(0)
