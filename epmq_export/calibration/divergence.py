"""How far a model's outputs are from an expert's, without anyone's labels."""

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

# logits = SCALE * cosine: the usual one for sentence encoders, and what their zero-shot heads are read at.
SCALE = 20.0


def divergence(outputs: Tensor, expert: Tensor, head: Tensor | None) -> Tensor:
    """Of each row of outputs [n, width] from the expert's, float32 [n]; 0 where they agree, never below.

    With a head [classes, width], the embeddings of the label texts: KL(expert || ours) of the two distributions over the classes. It asks for what
    the task reads, and leaves the rest of the output free. Without one: 1 - cosine.
    """
    outputs, expert = outputs.float(), expert.float()
    if head is None:
        return (1 - cosine_similarity(outputs, expert)).clamp_min(0)
    ours, theirs = (log_probabilities(rows, head) for rows in (outputs, expert))
    return (theirs.exp() * (theirs - ours)).sum(1).clamp_min(0)


def log_probabilities(outputs: Tensor, head: Tensor) -> Tensor:
    """Over the classes of a head, float32 [n, classes]."""
    result: Tensor = torch.log_softmax(SCALE * normalize(outputs, dim=1) @ normalize(head.float(), dim=1).T, 1)
    return result
