"""The modes of pooling that sentence-transformers has: each makes one row of the last hidden state."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def _first(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[:, 0]


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    # What pads a text may stand before it, where clients give it so.
    places = mask * torch.arange(1, hidden.shape[1] + 1, device=hidden.device)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), places.argmax(1)]


def _most(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask[:, :, None] == 0, -torch.inf).amax(1)


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def _mean_by_root(hidden: Tensor, mask: Tensor) -> Tensor:
    return (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).sqrt()


def _rising_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return _mean(hidden, mask * torch.arange(1, hidden.shape[1] + 1, device=hidden.device))


_POOLS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "lasttoken": _last,
    "max": _most,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _rising_mean,
}


def pool(hidden: Tensor, attention_mask: Tensor, modes: Sequence[str]) -> Tensor:
    """Return one unnormalised row for each text, [batch, modes x width], of a hidden state [batch, length,
    width]. Texts are padded behind; the last token alone is found wherever they are padded.
    """
    mask = attention_mask.to(hidden.dtype)
    found = [_POOLS[mode](hidden, mask) for mode in modes]
    return found[0] if len(found) == 1 else torch.cat(found, 1)
