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

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        scores = softcap * torch.tanh(query @ key.transpose(-2, -1) * (scaling / softcap))
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        return scores.softmax(-1) @ value

    # The heads that share keys and values stand together.
    batch, heads, *rows = query.shape
    query = query.reshape(batch, key.shape[1], heads // key.shape[1], *rows)
    key, value, mask = key[:, :, None], value[:, :, None], attention_mask[:, :, None]
    if torch.compiler.is_compiling():
        found = attend(query, key, value, mask)
    else:
        # Only so many scores are in memory at a time.
        texts = zip(query, key, value, mask.expand(-1, key.shape[1], -1, -1, -1), strict=True)
        found = torch.stack([torch.stack([*map(attend, *text)]) for text in texts])
    return found.reshape(batch, heads, *found.shape[3:]).transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(CAPPED, capped)
