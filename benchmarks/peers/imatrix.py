"""llama.cpp's importance matrix: the mean square of what each input of each linear is given."""

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.peers.peer import Merge
from epmq_export.models.blocks import inputs_of, load_block, run_block
from epmq_export.models.samples import length

BATCH = 16
CPU = torch.device("cpu")


def importance(merge: Merge) -> dict[str, Tensor]:
    """Return, by the weight's name, the mean of x^2 in the unquantised model over all tokens of all texts,
    padding left out: float32 [in].

    That is what llama-imatrix sums up and llama-quantize divides by the count of tokens.
    """
    batches = [*merge.family.batches(sorted(merge.texts, key=length), BATCH)]
    hidden: list[Tensor | None] = [None] * len(batches)
    result: dict[str, Tensor] = {}
    for block in merge.family.blocks:
        module = load_block(block, merge.packed, CPU)
        steps = [step for step in block.steps if isinstance(module.get_submodule(step[0]), nn.Linear)]
        sums = [
            torch.zeros(module.get_parameter(f"{step[0]}.weight").shape[1], dtype=torch.float64)
            for step in steps
        ]
        tokens = [0] * len(steps)
        for b, batch in enumerate(batches):
            seen, hidden[b] = inputs_of(
                module,
                [step[0] for step in steps],
                partial(run_block, block, module, hidden[b], batch, CPU),
                stop=False,
            )
            for s, (step, value) in enumerate(zip(steps, seen, strict=True)):
                rows = value[block.row_weights(step, batch, (value.shape[0], value.shape[1])) > 0]
                sums[s] += rows.double().square().sum(0)
                tokens[s] += len(rows)
        result |= {
            f"{block.prefix}{path}.weight": (sums[s] / tokens[s]).float()
            for s, step in enumerate(steps)
            for path in step
        }
    return result
