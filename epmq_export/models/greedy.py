"""Greedy answers of a language model: the likeliest token each time, with one block's weights in memory at a
time.

No cache of keys and values outlives a block, so the blocks run anew for each token, over all texts.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from epmq_export.models.activations import Activations, room_on
from epmq_export.models.blocks import load_block, run_block
from epmq_export.models.family import Batch, Block, Family, language_of
from epmq_export.tensors.source import TensorSource

BATCH = 32
# The bytes of hidden states that are held in memory. The rest is spilled.
HELD = 2 << 30


@torch.no_grad()
def answers(
    family: Family, source: TensorSource, texts: Sequence[str], limit: int, device: torch.device
) -> list[list[int]]:
    """Return the tokens that the model with the source's weights puts behind each text, with the token that
    ends them if it came within `limit`.

    The encoder's blocks run once, the decoder's once for each token. Raises InputError where the family is no
    language model.
    """
    language = language_of(family)
    # Texts of similar length stand together, so that there is little padding.
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    given = [*family.batches([texts[i] for i in order], BATCH)]
    found = [torch.zeros(len(batch["attention_mask"]), 0, dtype=torch.int64) for batch in given]
    with Activations(HELD, room_on(device)) as kept:
        for n, block in enumerate(language.encoder):
            module = load_block(block, source, device)
            for b, batch in enumerate(given):
                kept.put(
                    ("encoder", b),
                    run_block(block, module, kept.get(("encoder", b)) if n else None, batch, device),
                )
        going = [*range(len(given))]
        for _ in range(limit):
            if not going:
                break
            begun = {b: kept.get(("encoder", b)) if language.encoder else None for b in going}
            batches = {b: language.grown(given[b], found[b]) for b in going}
            scores = _next(language.decoder, source, begun, batches, device)
            for b in going:
                found[b] = torch.cat((found[b], scores[b].argmax(1, keepdim=True).cpu()), 1)
            ends = torch.tensor([*language.ends])
            going = [b for b in going if not bool(torch.isin(found[b], ends).any(1).all())]
    rows = [_until(row.tolist(), language.ends) for each in found for row in each]
    return [row for _, row in sorted(zip(order, rows, strict=True))]


def _next(
    decoder: Sequence[Block],
    source: TensorSource,
    begun: dict[int, Tensor | None],
    batches: dict[int, Batch],
    device: torch.device,
) -> dict[int, Tensor]:
    """Return the scores of each text's next token, [batch, vocabulary], for each batch, on the device."""
    states: dict[int, Tensor] = {}
    for n, block in enumerate(decoder):
        module = load_block(block, source, device)
        for b, batch in batches.items():
            states[b] = run_block(block, module, states[b] if n else begun[b], batch, device)
    return states


def _until(ids: list[int], ends: frozenset[int]) -> list[int]:
    """Return the tokens up to the first that ends an answer, with it."""
    end = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return ids[: end + 1]
