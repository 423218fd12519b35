"""An attention whose scores stay within a bound, which the library's attention of PyTorch has not."""

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

CAPPED = "capped"
"""What a config calls it."""


def capped(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    scaling: float,
    softcap: float,
    **_: object,
) -> tuple[Tensor, None]:
    """Return the attention's result [batch, length, heads, width]: scores are `softcap` times the tanh of
    their share of it. `attention_mask`, bool, tells what each token sees.
    """
    shared = query.shape[1] // key.shape[1]
    key, value = (
        each[:, :, None].expand(-1, -1, shared, -1, -1).flatten(1, 2) if shared > 1 else each
        for each in (key, value)
    )
    scores = softcap * torch.tanh(query @ key.transpose(2, 3) * (scaling / softcap))
    scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(CAPPED, capped)
