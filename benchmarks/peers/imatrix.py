"""llama.cpp's importance matrix: the mean square of what each input of each linear is given."""

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.peers.peer import Merge
from epmq_export.models.blocks import inputs_of, load_block, run_block
from epmq_export.models.mixture import Mixture, place_of, seen_at
from epmq_export.models.samples import length

BATCH = 16
CPU = torch.device("cpu")


def importance(merge: Merge) -> dict[str, Tensor]:
    """Return, by the weight's name, the mean of x^2 in the unquantised model over all tokens of all texts,
    padding left out: float32 [in].

    That is what llama-imatrix sums up and llama-quantize divides by the count of tokens. In a mixture the
    tokens are those that go to the linear's expert, and where none does, it is 1, as it is there.
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
        paths = [*dict.fromkeys(seen_at(module, step[0]) for step in steps)]
        for b, batch in enumerate(batches):
            seen, hidden[b] = inputs_of(
                module, paths, partial(run_block, block, module, hidden[b], batch, CPU), stop=False
            )
            given = dict(zip(paths, seen, strict=True))
            for s, step in enumerate(steps):
                value = given[seen_at(module, step[0])]
                counted = block.row_weights(step, batch, (value.shape[0], value.shape[1])) > 0
                rows = _given_to(module, step[0], value[counted])
                sums[s] += rows.double().square().sum(0)
                tokens[s] += len(rows)
        result |= {
            f"{block.prefix}{path}.weight": _mean(sums[s], tokens[s])
            for s, step in enumerate(steps)
            for path in step
        }
    return result


@torch.no_grad()
def _given_to(module: nn.Module, path: str, rows: Tensor) -> Tensor:
    """Return the rows that a linear is given: of one in a mixture, which is given rows [n, width], those that
    the router sends to its expert.
    """
    if (place := place_of(module, path)) is None:
        return rows
    mixture, expert = module.get_submodule(place.mixture), module.get_submodule(place.module)
    assert isinstance(mixture, Mixture)
    taken = rows[mixture.shares(rows)[:, place.expert] > 0]
    (found,), _ = inputs_of(expert, [place.path], partial(expert, taken), stop=True)
    return found


def _mean(total: Tensor, count: int) -> Tensor:
    return (total / count if count else torch.ones_like(total)).float()
