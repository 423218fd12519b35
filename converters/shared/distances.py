"""The numbers that attention adds to its scores by how far two tokens are apart, out of a table of rows for
ranges of distances.
"""

import torch
from torch import Tensor, nn

DISTANCE = 128
"""The distance beyond which all tokens share a row. The formulas and llama.cpp have it in their code."""


def by_distance(table: nn.Module, buckets: Tensor, places: Tensor, length: int) -> Tensor:
    """Return what is added to the attention's scores, [1, heads, new, length], for tokens at `places`, [new],
    among `length`. `buckets`, int64 [2 DISTANCE + 1], has the row of the table for each distance, from
    DISTANCE tokens before to as many behind.

    The rows are computed once, in PyTorch: the formula takes a logarithm, whose last bit, and with it the row
    of a power of two, differs between runtimes.
    """
    distances = torch.arange(length, device=places.device)[None] - places[:, None]
    found: Tensor = table(buckets.to(places.device)[distances.clamp(-DISTANCE, DISTANCE) + DISTANCE])
    return found.permute(2, 0, 1)[None]
