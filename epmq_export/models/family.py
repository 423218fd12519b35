"""What the method asks of a model family. `converters` answers; nothing here knows BERT from CLIP.

A family is bound to one model directory (its config and tokenizer) and to no weights: weights come as a
`TensorSource`, by canonical name, so that one family serves the base, every expert, the merge and the packed
checkpoint.

What only some families have is a part that others have not: `language`, `images`, `zero_shot`, and an
`Export` for each format that the model can be written in.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from epmq_export.errors import InputError
from epmq_export.models.samples import Passage, Sample
from epmq_export.tensors.source import TensorSource

Batch = Mapping[str, Tensor]


class Block(Protocol):
    """A run of modules between two hidden states. The first block of a family makes the hidden state from the
    batch.
    """

    @property
    def name(self) -> str:
        """What people and files call it: `encoder.layer.3`."""
        ...

    @property
    def prefix(self) -> str:
        """What its module's names need before them to be its tensors' names: `encoder.layer.3.`; may be
        empty.
        """
        ...

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        """The paths of the linears and norms that are calibrated, in the order of the data. The members of a
        step share one input.
        """
        ...

    def build(self) -> nn.Module:
        """Return the family's own module, its parameters on the meta device."""
        ...

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        """Return the next hidden state, [batch, length, width]."""
        ...

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        """Return how much each row of a step's input counts in its statistics, float32 [batch, length]; 0
        for padding. `shape` is the batch's and the length of that input.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Export:
    """What a family is in one format: how it is laid out there is the format's own class of this."""

    runtimes: Sequence[str]
    """The names of all runtimes that read the files; verification runs each of them."""

    computed: Callable[[], "Family"]
    """Return the family as these runtimes compute it, approximations included (ggml has a tanh GELU), for
    exact comparison.
    """

    halves: Sequence[str] = ()
    """Tensors that are stored in F16, whatever a recipe says, because a runtime takes nothing else."""

    grids: frozenset[str] | None = None
    """The grids, by their types in the file, that the runtimes can decode; None for all that the format
    holds.
    """

    splits: bool = False
    """Whether the runtimes read a model that lies in several files."""

    agrees: Callable[[], Callable[[str], bool]] | None = None
    """Return what says of a text whether the runtimes' own tokenizer finds the model's tokens in it; None
    where it finds them in every text, but for those that no probe has.
    """

    def require(self) -> None:
        """Raise InputError where the runtimes cannot read this model at all, whatever it is stored on."""


@dataclass(frozen=True)
class ZeroShot:
    """How label texts become classes of what a family gives out."""

    text_tower: "Family"
    """What embeds label texts where the family's outputs are: the family itself, for a text encoder."""

    logit_scale: str | None = None
    """The tensor that holds the logarithm of what cosines are multiplied by; None for a text encoder's usual
    20.
    """


@dataclass(frozen=True)
class Images:
    """The size of a picture as the model takes it."""

    numbers: int
    """Numbers of its pixels, colours counted."""

    tokens: int
    """Rows of its hidden state, those that stand for no patch counted."""


class Language(Protocol):
    """What only language models have. Their outputs are scores of what comes next, [rows, vocabulary], before
    softmax: one row for a text, of what follows it; for a passage one row for each token of its target.
    """

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        ...

    @property
    def encoder(self) -> Sequence[Block]:
        """The blocks, first of all, whose hidden states do not depend on an answer; they may be none."""
        ...

    @property
    def decoder(self) -> Sequence[Block]:
        """The blocks behind the encoder's; the last gives a row [vocabulary] for each token marked `read`."""
        ...

    def grown(self, batch: Batch, found: Tensor) -> Batch:
        """Return a batch behind whose texts, or in whose decoder, stand the tokens `found`, int64 [batch,
        number], with the last one read.
        """
        ...

    def targets(self, passage: Passage) -> list[int]:
        """Return the tokens that a passage's rows are to predict; InputError where its target has none."""
        ...

    def said(self, answer: Sequence[int]) -> str:
        """Return an answer's tokens as text, without special ones and without the white space around it."""
        ...

    def passages(
        self, source: TensorSource, samples: Sequence[Sample], device: torch.device
    ) -> Sequence[Sample]:
        """Return unlabelled samples as the model is calibrated on them, for the expert that `source` is.

        Where a decoder reads what an encoder does not, texts get targets for it: the expert's own greedy
        answers. They stay as they are where a text is all that there is to read.
        """
        ...


class Family(Protocol):
    """A kind of model, bound to one model's directory."""

    @property
    def name(self) -> str: ...

    @property
    def directory(self) -> Path:
        """Where config, tokenizer and everything else is that must travel with the weights."""
        ...

    @property
    def blocks(self) -> Sequence[Block]: ...

    @property
    def embeddings(self) -> Sequence[str]:
        """Tensors that are tables of rows by token, which a recipe may store on a grid of their own."""
        ...

    @property
    def frozen(self) -> Sequence[str]:
        """fnmatch patterns of the canonical names that a merge leaves as the base's, unless the recipe says
        otherwise.
        """
        ...

    @property
    def exports(self) -> Mapping[str, Export]:
        """What the model can be written in, by the format's name, in the order in which formats are written
        where a recipe names none.
        """
        ...

    @property
    def zero_shot(self) -> ZeroShot | None:
        """How label texts become classes; None where nothing embeds them."""
        ...

    @property
    def language(self) -> Language | None:
        """What only language models have; None for all others."""
        ...

    @property
    def images(self) -> Images | None:
        """What its pictures are; None for a family that reads texts."""
        ...

    def canonical(self, name: str) -> str | None:
        """Return a checkpoint's tensor name as this project uses it; None for one that the exported model
        does not need.
        """
        ...

    def truncate(self, sample: Sample) -> Sample:
        """Return the part of a sample that fits the model, so that every runtime is given the same."""
        ...

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        """Give the samples tokenised and padded, or preprocessed, `size` at a time, in the given order."""
        ...

    def later(self, batch: Batch) -> Batch:
        """Return what blocks after the first read of a batch."""
        ...

    def output(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return what the task reads off the last hidden state, float32 [batch, width]; of passages, a row a
        scored token. Not of questions.
        """
        ...


def halves(family: Family) -> frozenset[str]:
    """Return the tensors that are stored in F16 whatever a recipe says: one packed checkpoint serves all
    formats.
    """
    return frozenset(name for export in family.exports.values() for name in export.halves)


def towers(family: Family) -> list[Family]:
    """Return the family and, where another one embeds its label texts, that one: together they have all
    tensors of the exported model but for the scale of cosines.
    """
    zero_shot = family.zero_shot
    return [family] if zero_shot is None or zero_shot.text_tower is family else [family, zero_shot.text_tower]


def language_of(family: Family) -> Language:
    """Return what a language model has; InputError where the family is none."""
    if family.language is None:
        raise InputError(
            f"{family.directory}: found the family {family.name}, which answers nothing in words, expected a "
            "language model"
        )
    return family.language


def calibrated_on(
    family: Family, source: TensorSource, samples: Sequence[Sample], device: torch.device
) -> Sequence[Sample]:
    """Return what a family is calibrated on for an expert, of a task's samples."""
    language = family.language
    return samples if language is None else language.passages(source, samples, device)


def rows(family: Family, sample: Sample) -> int:
    """Return how many rows of output a sample has."""
    return len(language_of(family).targets(sample)) if isinstance(sample, Passage) else 1
