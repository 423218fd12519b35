"""The cost of a calibration in operations, memory and time, from shapes and a second of arithmetic on this
machine.

A linear has d inputs, o outputs and n rows, and there are T tasks. A multiplication and an addition count as
two operations.

    forward pass        2 n d o a linear, 4 n l w an attention over l tokens of width w
    statistics          5/4 n d^2 for x_s x_s^T, which is symmetric; 2 n d^2 for x* x_s^T where the experts
                        are run
    a step's solve      (d^3 / 3 + d^3) for the factor of H, float64, at the most
    a linear's solve    (2 or 3) T o d^2 for its targets, 5/2 o d^2 for W*, 3/2 o d^2 for the merge's loss, as
                        float64
    rounding            a walk along d columns for GPTQ, which no product speeds up, and one that is timed as
                        DESCENT of them for all rounds of the descent
    embeddings          a search for the scales of every row, timed as SCALED operations a number

Of a mixture's linears n is the share of the rows that its experts get on average. docs/method.md explains
these parts.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, prod

import torch
from torch import nn

from epmq_export.calibration.calibrator import BATCH, Calibrator
from epmq_export.calibration.method import Method
from epmq_export.calibration.rounding import gptq
from epmq_export.grids import GRIDS
from epmq_export.models.family import Block
from epmq_export.models.mixture import share_of
from epmq_export.models.precision import whole_float32

# What the parts of a calibration took beside what is counted and measured, on one thread of a processor with
# AVX-512, for MiniLM, two layers of CLIP and a layer of a Llama of 341M weights. Products come with norms,
# attention and copies, and are of smaller matrices than the one that is measured.
PRODUCTS = 2.0
# The columns of GPTQ that all rounds of the descent take the time of, to each of GPTQ's own.
DESCENT = 1.8
# The operations that finding a number's code and its row's scales takes the time of.
SCALED = 12_000
# The least and the most seconds are so many times below and above what is expected.
SPREAD = 1.5
# The times that products take at the most.
SLOWEST = PRODUCTS * SPREAD
# The number of columns of the rounding that is timed.
COLUMNS = 128
# The number of hidden states that the forward pass of a block holds for each row, beside both halves of the
# feed-forward.
STATES = 8
FLOAT, DOUBLE = 4, 8
# What the C library keeps of memory that was freed between its pieces, as a share of what is held: a
# calibration of 6 to 160 layers held 3 to 18 percent more than its parts (docs/results.md).
KEPT = 0.2
# The copies of a tensor while it is merged: the base's, an expert's, its task vector, and their sum.
MERGING = 4


@dataclass(frozen=True)
class Step:
    """Linears that share one input, or a norm."""

    paths: tuple[str, ...]
    width: int
    """The number of inputs."""

    outputs: tuple[int, ...]
    """The number of outputs of each linear. A norm has none."""

    share: float | None = None
    """The share of the rows that reach it in a mixture, and None elsewhere."""

    @property
    def reached(self) -> float:
        """Return the share of the rows that reach it."""
        return 1.0 if self.share is None else self.share


@dataclass(frozen=True)
class Shape:
    """The shapes of one block."""

    name: str
    numbers: int
    """The number of its parameters."""

    steps: Sequence[Step]
    attention: int
    """The width of its attention, or 0 for a block without attention."""

    widest: int
    """The largest number of inputs or outputs of its linears."""

    largest: int
    """The number of parameters of its largest tensor."""

    def forward(self, rows: float, tokens: float) -> float:
        """Return the operations of a forward pass of `rows` rows, in samples of `tokens` tokens."""
        linear = 2 * rows * sum(step.reached * step.width * sum(step.outputs) for step in self.steps)
        return linear + 4 * rows * tokens * self.attention

    def solved(self, method: Method) -> list[int]:
        """Return the indices of the steps that are solved: all linears, and norms where the method solves
        them.
        """
        return [i for i, step in enumerate(self.steps) if step.outputs or method.affine == "solved"]

    def passes(self, method: Method) -> float:
        """Return the number of forward passes of the student where nothing of them is kept. There is one to
        each step that is solved, which ends there, and one more through the block as it is shipped. To the
        experts of a mixture there is one together.
        """
        solved = self.solved(method)
        return sum((place + 0.5) / len(self.ends) for place, i in enumerate(self.ends) if i in solved) + 1

    @property
    def ends(self) -> list[int]:
        """Return the indices of the steps at whose inputs a pass may end: all, but of a mixture's the first
        alone.
        """
        return [
            i
            for i, step in enumerate(self.steps)
            if step.share is None or i == 0 or self.steps[i - 1].share is None
        ]

    def kept(self, both: bool) -> int:
        """Return the numbers of a row that are kept while the block is calibrated, since a later step reads
        them: what its finished modules have made, and each step's input in the experts where they are run.
        """
        made = sum(step.width for step in self.steps if not step.outputs)
        made += max((sum(step.outputs) for step in self.steps), default=0)
        seen = [self.steps[i] for i in self.ends]
        made += sum(step.width for step in seen if step.share is not None)
        return made + (sum(step.width for step in seen) if both else 0)


@dataclass(frozen=True)
class Samples:
    """The amount of calibration data."""

    tasks: int
    """The number of tasks."""

    samples: int
    """The number of samples of all tasks together."""

    tokens: float
    """The tokens of a sample, on average, padding included."""

    exact: bool
    """Whether the data were read. Otherwise the numbers are those that the recipe asks for."""

    @property
    def rows(self) -> float:
        """Return the number of tokens of all samples."""
        return self.samples * self.tokens


@dataclass(frozen=True)
class Memory:
    """The bytes that are held besides Python and its libraries, at the block that takes the most."""

    weights: int
    """The block's weights in the merge, in the student and in an expert."""

    merging: int
    """The block's largest tensor, while it is merged."""

    statistics: int
    """The block's widest step: sums in float32, the factor in float64, and its solves."""

    forward: int
    """The forward pass of one batch."""

    activations: int
    """Hidden states, batches, the experts' inputs and what finished modules have made, up to their bound."""

    spilled: int
    """Activations that are past the bound, on disk: not part of `peak`."""

    @property
    def peak(self) -> int:
        """Return all that is in memory together, with what the C library keeps of what was freed."""
        held = self.weights + self.merging + self.statistics + self.forward + self.activations
        return int(held * (1 + KEPT))


@dataclass(frozen=True)
class Work:
    """The operations of one calibration."""

    forward: float
    """Those of the forward passes, in float32."""

    statistics: float
    """Those of the statistics, in float32."""

    solve: float
    """Those of the solves, in float64."""

    columns: float
    """The columns that GPTQ walks along, those that the descent takes the time of included."""

    embeddings: float
    """The numbers of the embeddings that are rounded."""


@dataclass(frozen=True)
class Speed:
    """The speed of a machine."""

    single: float
    """Operations a second in float32."""

    double: float
    """Operations a second in float64."""

    column: float
    """The seconds that a column of GPTQ takes, in linears of the model's mean number of outputs."""


def shape_of(block: Block) -> Shape:
    """Return the shapes of a block."""
    module = block.build()
    steps = []
    for step in block.steps:
        parts = [module.get_submodule(path) for path in step]
        if isinstance(parts[0], nn.Linear):
            steps.append(
                Step(
                    step,
                    parts[0].in_features,
                    tuple(part.out_features for part in parts if isinstance(part, nn.Linear)),
                    share_of(module, step[0]),
                )
            )
        else:
            steps.append(Step(step, prod(module.get_parameter(f"{step[0]}.weight").shape), ()))
    numbers = sum(value.numel() for value in module.state_dict().values())
    largest = max(value.numel() for value in module.state_dict().values())
    return Shape(
        name=block.name,
        numbers=numbers,
        steps=steps,
        attention=_attention([step for step in steps if step.outputs]),
        widest=max((max(step.width, *step.outputs) for step in steps if step.outputs), default=0),
        largest=largest,
    )


def _attention(linears: Sequence[Step]) -> int:
    """Return the width of a block's attention, by its steps of linears. One of three linears is that of
    queries, keys and values. Where there is none, one linear makes them together, and they are more than the
    next one is given.
    """
    apart = max((step.width for step in linears if len(step.outputs) == 3), default=0)
    joined = (one.width for one, then in pairwise(linears) if one.outputs[0] > then.width)
    return apart or next(joined, 0)


def work_of(blocks: Sequence[Shape], samples: Samples, method: Method, embeddings: int) -> Work:
    """Return the operations of one calibration: the formulas of this module, summed over all steps.
    `embeddings` are the numbers of the embeddings that are rounded.
    """
    both = _runs_experts(method)
    forward = statistics = solve = columns = 0.0
    walks = {"nearest": 0.0, "gptq": 1.0, "descent": 1 + DESCENT}[method.rounding]
    room = _room(blocks, samples)
    for block in blocks:
        share = min(1.0, room / max(samples.rows * block.kept(both) * FLOAT, 1))
        passes = share + (1 - share) * block.passes(method) + (1 if both else 0)
        forward += block.forward(samples.rows, samples.tokens) * passes
        for step in (block.steps[i] for i in block.solved(method)):
            statistics += (3.25 if both else 1.25) * step.reached * samples.rows * step.width**2
            if not step.outputs:
                continue
            square = sum(step.outputs) * step.width**2
            solve += step.width**3 * 4 / 3 + ((3 if both else 2) * samples.tasks + 4) * square
            columns += walks * step.width
    return Work(forward, statistics, solve, columns, embeddings)


def passes_of(blocks: Sequence[Shape], samples: Samples, method: Method) -> dict[str, int]:
    """Return the number of batches, and the passes of a batch through a block: the student's to each step, to
    each mixture and through each block but the last, and the experts' through each block.
    """
    batches = samples.tasks * ceil(samples.samples / samples.tasks / BATCH)
    steps = sum(len({*block.solved(method)}.intersection(block.ends)) for block in blocks)
    experts = batches * len(blocks) if _runs_experts(method) else 0
    return {"batches": batches, "student": batches * (steps + len(blocks) - 1), "experts": experts}


def memory_of(
    blocks: Sequence[Shape], samples: Samples, method: Method, batch_bytes: float, merged: Sequence[int]
) -> Memory:
    """Return the bytes at the peak, from shapes. `merged` are the most numbers of each block that are merged
    at a time.

    Activations are the hidden states of the student, and of the experts before and after the block; the
    batches of the first block; and what finished modules have made and the experts' inputs of a block's
    steps, which can be computed again and so get only half of the bound. What is beyond the bound is spilled.
    """
    both, bound = _runs_experts(method), _bound()

    def parts(block: Shape, at_once: int) -> tuple[float, float, float, float]:
        weights = block.numbers * FLOAT * (3 if both else 2)
        batch = min(BATCH, samples.samples)
        row = (STATES * hidden_of(blocks) + 2 * block.widest) * FLOAT
        # Beside the hidden states there is the mask of an attention, as truth values and as numbers.
        forward = batch * samples.tokens * (row + (samples.tokens * (FLOAT + 1) if block.attention else 0))
        return weights, MERGING * at_once * FLOAT, max(map(_sums, block.steps), default=0), forward

    weights, merging, statistics, forward = max(map(parts, blocks, merged), key=sum)
    state = samples.rows * hidden_of(blocks) * FLOAT
    must = max(samples.samples * batch_bytes + state * (2 if both else 1), state * (3 if both else 1))
    again = max(samples.rows * block.kept(both) * FLOAT for block in blocks)
    total = must + min(again, _room(blocks, samples))
    return Memory(
        weights=int(weights),
        merging=int(merging),
        statistics=int(statistics),
        forward=int(forward),
        activations=int(min(total, bound)),
        spilled=int(max(0.0, total - bound)),
    )


def _room(blocks: Sequence[Shape], samples: Samples) -> float:
    """Return the bytes for activations that can be computed again, beside the hidden states."""
    return max(0.0, _bound() / 2 - samples.rows * hidden_of(blocks) * FLOAT * 2)


def _sums(step: Step) -> int:
    """Return the bytes of a step's statistics and solves: two [in, in] in float32; in float64 H, its factor
    and what the factor is made from; and the anchors, targets and numerators of the linears.
    """
    if not step.outputs:
        return step.width**2 * 2 * FLOAT
    return step.width**2 * (3 * FLOAT + 3 * DOUBLE) + sum(step.outputs) * step.width * (
        4 * DOUBLE + 3 * FLOAT
    )


def seconds_of(work: Work, speed: Speed, calibrations: tuple[int, int]) -> tuple[float, float]:
    """Return the least and the most seconds, `SPREAD` times below and above what is expected: operations over
    speed, of so many calibrations at least and at most.
    """
    products = PRODUCTS * (work.forward + work.statistics) + SCALED * work.embeddings
    once = products / speed.single + work.solve / speed.double + work.columns * speed.column
    return calibrations[0] * once / SPREAD, calibrations[1] * once * SPREAD


@whole_float32()
def measure(blocks: Sequence[Shape], device: torch.device, seconds: float = 1.0) -> Speed:
    """Return the speed of the device for products of the model's own shapes: those of its largest step, in
    float32 for a batch and in float64 for its H.
    """
    steps = [step for block in blocks for step in block.steps if step.outputs] or [Step((), 256, (256,))]
    step = max(steps, key=lambda step: step.width * sum(step.outputs))
    speeds = []
    for dtype, share in ((torch.float32, 0.6), (torch.float64, 0.4)):
        left = torch.ones(512, step.width, dtype=dtype, device=device)
        right = torch.ones(step.width, max(step.outputs), dtype=dtype, device=device)
        _timed(left, right, 1)  # The first call includes the start of the library.
        once = _timed(left, right, 1)
        count = max(1, min(1000, int(share * seconds / max(once, 1e-6))))
        speeds.append(2 * left.numel() * right.shape[1] * count / max(_timed(left, right, count), 1e-9))
    grid = GRIDS["Q4_0"]
    # The mean over all columns that are walked along.
    outputs = sum(each.width * sum(each.outputs) for each in steps) // sum(each.width for each in steps)
    weight = torch.randn(outputs, COLUMNS, device=device, generator=torch.Generator(device).manual_seed(0))
    factor = torch.eye(COLUMNS, dtype=torch.float64, device=device)
    times = []
    for _ in range(2):  # The first call includes the making of tables.
        started = time.perf_counter()
        float(gptq(weight, factor, grid).codes[0, 0])
        times.append(time.perf_counter() - started)
    return Speed(speeds[0], speeds[1], min(times) / COLUMNS)


def _timed(left: torch.Tensor, right: torch.Tensor, count: int) -> float:
    started = time.perf_counter()
    for _ in range(count):
        result = left @ right
    float(result[0, 0])  # Reading a value waits until a GPU has done all of it.
    return time.perf_counter() - started


def _runs_experts(method: Method) -> bool:
    return method.target == "experts" and method.alpha > 0


def hidden_of(blocks: Sequence[Shape]) -> int:
    """Return the width of the hidden states, which is the width of the norms."""
    return max(
        (step.width for block in blocks for step in block.steps if not step.outputs),
        default=max(block.widest for block in blocks),
    )


def _bound() -> int:
    bound: int = Calibrator.activation_bytes
    return bound
