"""A tower's blocks as the parts of an ONNX model. They run what the blocks run, so that an exported graph can
only differ from the reference by the exporter's doing.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from converters.shared.classifiers import Scored
from epmq_export.models.classifiers import output_names
from epmq_export.models.family import Block
from epmq_export.models.specs import OnnxPart


def tower_parts(
    blocks: Sequence[Block], inputs: Sequence[str], values: Sequence[str], tower: str = ""
) -> list[OnnxPart]:
    """Return a part for each block of a tower, all of which are given the batch's tensors `inputs`. Blocks of
    one class must compute alike in a tower, but for what their modules tell.

    A part makes the next hidden state, under the block's name. `values` are the names of the last ones.
    """
    made = [block.name for block in blocks]
    made[len(made) - len(values) :] = values
    first, *layers = blocks
    parts = [
        OnnxPart(
            build=first.build,
            prefix=first.prefix,
            run=partial(_begin, first, inputs),
            reads=inputs,
            makes=made[:1],
        )
    ]
    for block, (before, after) in zip(layers, pairwise(made), strict=True):
        parts.append(
            OnnxPart(
                build=block.build,
                prefix=block.prefix,
                run=partial(_go_on, block, inputs),
                reads=[before, *inputs],
                makes=[after],
                like=f"{tower}.{type(block).__name__}",
            )
        )
    return parts


def head_parts(scored: Scored, reads: Sequence[str]) -> list[OnnxPart]:
    """Return a part for each classifier, which makes its scores. `reads` are the one hidden state that all of
    them read, and the batch's tensors that they read it by.
    """
    return [
        OnnxPart(
            build=partial(scored.build_head, place),
            prefix=f"{scored.prefix}{place}.",
            run=partial(_score, scored, reads[1:]),
            reads=reads,
            makes=[name],
            like="Head",
        )
        for place, name in enumerate(output_names(scored.heads))
    ]


def _score(
    scored: Scored, inputs: Sequence[str], head: nn.Module, hidden: Tensor, *given: Tensor
) -> tuple[Tensor, ...]:
    return (head(scored.read(hidden, dict(zip(inputs, given, strict=True)))),)


def _begin(block: Block, inputs: Sequence[str], module: nn.Module, *given: Tensor) -> tuple[Tensor, ...]:
    return (block.run(module, None, dict(zip(inputs, given, strict=True))),)


def _go_on(
    block: Block, inputs: Sequence[str], module: nn.Module, hidden: Tensor, *given: Tensor
) -> tuple[Tensor, ...]:
    return (block.run(module, hidden, dict(zip(inputs, given, strict=True))),)
