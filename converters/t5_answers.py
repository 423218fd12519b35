"""What a model of two halves goes on with, the likeliest token each time: one block's weights in memory at a time, as everywhere."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from epmq_export.calibration.activations import Activations
from epmq_export.calibration.forward import load_block, run_block
from epmq_export.data.sample import Sample
from epmq_export.family import Batch, Block, TensorSource

# Tokens of an answer that is calibrated on: a classifier's labels have few.
ANSWER = 16
BATCH = 32
# Bytes of the encoder's states that are held in memory; the rest is spilled.
HELD = 2 << 30


@torch.no_grad()
def answers(
    encoder: Sequence[Block],
    decoder: Sequence[Block],
    source: TensorSource,
    batches: Callable[[Sequence[Sample], int], Iterator[Batch]],
    texts: Sequence[str],
    limit: int,
    device: torch.device,
    ends: tuple[int, int],
) -> list[list[int]]:
    """Each text's tokens, without the one that begins an answer and with the one that ends it, if it came within `limit`.

    `ends` are these two. The decoder, whose last block gives a row [vocabulary] for each marked `read`, runs anew for each token over all texts.
    """
    start, end = ends
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # alike lengths together: little padding
    given = [*batches([texts[i] for i in order], BATCH)]
    found = [torch.full((len(batch["input_ids"]), 1), start) for batch in given]
    with Activations(HELD) as kept:
        for n, block in enumerate(encoder):
            module = load_block(block, source, device)
            for b, batch in enumerate(given):
                kept.put(("encoder", b), run_block(block, module, kept.get(("encoder", b)) if n else None, batch, device).cpu())
        going = [*range(len(given))]
        for _ in range(limit):
            if not going:
                break
            scores = _next(decoder, source, kept, {b: _grown(given[b], found[b]) for b in going}, device)
            for b in going:
                found[b] = torch.cat((found[b], scores[b].argmax(1, keepdim=True).cpu()), 1)
            going = [b for b in going if not bool((found[b] == end).any(1).all())]
    rows = [_until(row.tolist()[1:], end) for each in found for row in each]
    return [row for _, row in sorted(zip(order, rows, strict=True))]


def _next(decoder: Sequence[Block], source: TensorSource, kept: Activations, batches: dict[int, Batch], device: torch.device) -> dict[int, Tensor]:
    """The scores of each text's next token, [batch, vocabulary], by batch."""
    states: dict[int, Tensor] = {}
    for n, block in enumerate(decoder):
        module = load_block(block, source, device)
        for b, batch in batches.items():
            states[b] = run_block(block, module, states[b] if n else kept.get(("encoder", b)), batch, device).cpu()
    return states


def _grown(batch: Batch, found: Tensor) -> Batch:
    """A batch whose decoder is given what was found so far, int64 [batch, length], and read at its end; what stands behind an end does no harm."""
    read = torch.zeros_like(found)
    read[:, -1] = 1
    return {"attention_mask": batch["attention_mask"], "decoder_input_ids": found, "decoder_attention_mask": torch.ones_like(found), "read": read}


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids
