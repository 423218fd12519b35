"""The contract of a model family. `converters` fulfils it, and nothing here knows BERT from CLIP.

A family is bound to one model directory (its config and tokenizer) and to no weights. Weights come as a
`TensorSource`, by canonical name, so that one family serves the base, every expert, the merge and the packed
checkpoint.

Parts that only some families have are optional: `language`, `images`, `zero_shot`, and an `Export` for each
format that the model can be written in.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from epmq_export.errors import InputError
from epmq_export.models.classifiers import Classifier
from epmq_export.models.samples import Pair, Passage, Sample
from epmq_export.tensors.source import TensorSource

Batch = Mapping[str, Tensor]
Run = Callable[[Sequence[Sample]], NDArray[np.float32]]
"""A function that gives outputs for samples, float32 [rows, width]."""


class Block(Protocol):
    """A run of modules between two hidden states. The first block of a family makes the hidden state from the
    batch.
    """

    @property
    def name(self) -> str:
        """Return the name that people and files use: `encoder.layer.3`."""
        ...

    @property
    def prefix(self) -> str:
        """Return the prefix that turns names in its module into names of its tensors: `encoder.layer.3.`. It
        may be empty.
        """
        ...

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        """Return the paths of the linears and norms that are calibrated, in the order of the data. The
        members of a step share one input.
        """
        ...

    def build(self) -> nn.Module:
        """Return the family's own module, its parameters on the meta device."""
        ...

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        """Return the next hidden state, [batch, length, width]."""
        ...

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        """Return how much each row of a step's input counts in its statistics, float32 [batch, length], with
        0 for padding. `shape` is the batch size and the length of that input.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Export:
    """A family in one format. Each format has a class of its own of this, which says how the family is laid
    out there.
    """

    runtimes: Sequence[str]
    """The names of the runtimes that verification always runs."""

    computed: Callable[[], "Family"]
    """A function that returns the family as these runtimes compute it, approximations included (ggml has a
    tanh GELU), for an exact comparison.
    """

    halves: Sequence[str] = ()
    """The tensors that are stored in F16, whatever a recipe says, because a runtime takes nothing else."""

    grids: frozenset[str] | None = None
    """The grids that the runtimes can decode, by their types in the file. None: all that the format holds."""

    splits: bool = False
    """Whether the runtimes read a model that lies in several files."""

    clients: Sequence[str] = ()
    """The names of further runtimes that people open the files with. Verification runs those of them that a
    recipe asks for.
    """

    by_default: bool = True
    """Whether it is written where no format is asked for by name."""

    unit: bool = False
    """Whether the model's outputs have length 1 and the files cannot say so: their users divide them by their
    lengths, and so does whoever reads them by a head.
    """

    agrees: Callable[[], Callable[[str], bool]] | None = None
    """A function that returns a check of a text: whether the runtimes' own tokenizer finds the model's tokens
    in it. None where it finds them in every text that occurs in practice.
    """

    joined: Callable[[Pair], str] | None = None
    """A function that returns the text that stands for a pair of texts, for runtimes that read single texts.
    It raises InputError where none does. None where the runtimes read pairs as they are.
    """

    heads_beside: Callable[[Path], Callable[[Tensor], Tensor]] | None = None
    """A function that takes the path of the main file and returns the classifiers beside it, which make the
    model's outputs of the runtime's. None where the files hold them, or the model has none.
    """

    def as_read(self, run: Run, path: Path) -> Run:
        """Return a function that gives a runtime's outputs as the users of the files at `path` read them."""
        heads, joined = self.heads_beside, self.joined
        if heads is None and not self.unit:
            return run

        def read(samples: Sequence[Sample]) -> NDArray[np.float32]:
            given = [joined(each) if joined and isinstance(each, Pair) else each for each in samples]
            made_of = nn.functional.normalize if heads is None else heads(path)
            found: Tensor = made_of(torch.from_numpy(run(given)))
            return found.numpy()

        return read

    def require(self) -> None:
        """Raise InputError where the runtimes cannot read this model at all, whatever it is stored on."""

    def require_model(self, path: Path) -> None:
        """Raise InputError where the file at `path` says of itself that it holds a model of another kind or
        size. A file that says nothing passes.
        """


@dataclass(frozen=True)
class Prompts:
    """What a model's own library puts before a text, by what the text is for."""

    default: str = ""
    """What it puts before a text of which nothing is said."""

    named: Mapping[str, str] = field(default_factory=dict)
    """All that are not empty, by name."""


@dataclass(frozen=True)
class ZeroShot:
    """The way in which label texts become classes of a family's outputs."""

    text_tower: "Family"
    """The family that embeds label texts in the space of the outputs: the family itself, for a text
    encoder.
    """

    logit_scale: str | None = None
    """The tensor that holds the logarithm of the factor of cosines. None for a text encoder, which has the
    usual factor 20.
    """

    logit_bias: str | None = None
    """The tensor that holds what is added to the cosines behind the factor, the same for all classes, or
    None.
    """

    logit_shape: tuple[int, ...] = ()
    """The shape of these tensors, which have one number each."""

    prompts: Prompts = field(default_factory=Prompts)
    """What is put before a text, label texts among them, unless a task says otherwise."""


@dataclass(frozen=True)
class Classifiers:
    """The part of a family whose fine-tunes may be classifiers, each with a head of its own."""

    parts: Mapping[str, str]
    """The names of a head's tensors in a fine-tune, as the family's naming gives them, by their canonical
    names within the head.
    """

    read_by: Callable[[Sequence[Classifier]], "Family"]
    """A function that returns the family with such heads: its outputs are the scores of all of them, one
    behind the other.
    """

    heads: Sequence[Classifier] = ()
    """The heads that the family has. Without any, its outputs are embeddings."""

    pairs: bool = True
    """Whether it tells the second text of a pair from the first as its tokenizer does."""


@dataclass(frozen=True)
class Images:
    """The size of a picture as the model takes it."""

    numbers: int
    """The number of its values: pixels times colours."""

    tokens: int
    """The number of rows of its hidden state, including those that stand for no patch."""


class Language(Protocol):
    """The part that only language models have.

    Their outputs are scores of the next token, [rows, vocabulary], before softmax. A text has one row, for
    the token that follows it. A passage has one row for each token of its target.
    """

    @property
    def ends(self) -> frozenset[int]:
        """Return the tokens that end an answer."""
        ...

    @property
    def encoder(self) -> Sequence[Block]:
        """Return the first blocks, whose hidden states do not depend on an answer. There may be none."""
        ...

    @property
    def decoder(self) -> Sequence[Block]:
        """Return the blocks behind the encoder's. The last one gives a row [vocabulary] for each token marked
        `read`.
        """
        ...

    def grown(self, batch: Batch, found: Tensor) -> Batch:
        """Return a batch with the tokens `found`, int64 [batch, number], behind its texts or in its decoder,
        with the last of them marked `read`.
        """
        ...

    def targets(self, passage: Passage) -> list[int]:
        """Return the tokens that a passage's rows are to predict. Raises InputError where its target has
        none.
        """
        ...

    def chat(self, prompt: str) -> str:
        """Return a prompt as the tokenizer's chat template puts it: what a user says, and the beginning of
        the answer. Raises InputError where the tokenizer has no template for it.
        """
        ...

    def conversation(self, messages: Sequence[Mapping[str, Any]]) -> Sample:
        """Return a conversation as the tokenizer's chat template puts it: a passage whose target is the last
        answer or, where it does not end with one, a prompt. Raises InputError as `chat` does.
        """
        ...

    def said(self, answer: Sequence[int]) -> str:
        """Return an answer's tokens as text, without special ones and without the white space around it."""
        ...

    def passages(
        self, source: TensorSource, samples: Sequence[Sample], device: torch.device
    ) -> Sequence[Sample]:
        """Return unlabelled samples as the model is calibrated on them, for the expert that `source` is.

        Where a decoder reads something else than the encoder, texts get targets for it: the expert's own
        greedy answers. Otherwise they stay as they are.
        """
        ...


class Family(Protocol):
    """A kind of model, bound to one model's directory."""

    @property
    def name(self) -> str: ...

    @property
    def directory(self) -> Path:
        """Return the directory of the config, the tokenizer, and everything else that must travel with the
        weights.
        """
        ...

    @property
    def blocks(self) -> Sequence[Block]: ...

    @property
    def embeddings(self) -> Sequence[str]:
        """Return the tensors that are tables of rows by token, which a recipe may store on a grid of their
        own.
        """
        ...

    @property
    def frozen(self) -> Sequence[str]:
        """Return the fnmatch patterns of the canonical names that a merge leaves as the base's, unless the
        recipe says otherwise.
        """
        ...

    @property
    def exports(self) -> Mapping[str, Export]:
        """Return the formats that the model can be written in, by name, in the order in which they are
        written where a recipe names none.
        """
        ...

    @property
    def zero_shot(self) -> ZeroShot | None:
        """Return the way in which label texts become classes, or None where nothing embeds them."""
        ...

    @property
    def classifiers(self) -> Classifiers | None:
        """Return the part of a family whose fine-tunes may be classifiers, or None."""
        ...

    @property
    def language(self) -> Language | None:
        """Return the part that only language models have, or None."""
        ...

    @property
    def images(self) -> Images | None:
        """Return the size of its pictures, or None for a family that reads texts."""
        ...

    def canonical(self, name: str) -> str | None:
        """Return the canonical name of a tensor of a checkpoint, or None for a tensor that the exported model
        does not need.
        """
        ...

    def truncate(self, sample: Sample) -> Sample:
        """Return the part of a sample that fits the model, so that every runtime gets the same."""
        ...

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        """Yield the samples tokenised and padded, or preprocessed, `size` at a time, in the given order."""
        ...

    def later(self, batch: Batch) -> Batch:
        """Return the part of a batch that blocks after the first read."""
        ...

    def output(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return the output that the task reads off the last hidden state, float32 [batch, width]. For
        passages it has a row for each scored token. It is not for questions.
        """
        ...


def default_formats(family: Family) -> list[str]:
    """Return the names of the formats that are written where none is asked for by name."""
    return [name for name, export in family.exports.items() if export.by_default]


def halves(family: Family) -> frozenset[str]:
    """Return the tensors that are stored in F16 whatever a recipe says. They are those of all formats,
    because one packed checkpoint serves all.
    """
    return frozenset(name for export in family.exports.values() for name in export.halves)


def towers(family: Family) -> list[Family]:
    """Return the family and, where another one embeds its label texts, that one. Together they have all
    tensors of the exported model but those of cosines.
    """
    zero_shot = family.zero_shot
    return [family] if zero_shot is None or zero_shot.text_tower is family else [family, zero_shot.text_tower]


def of_cosines(family: Family) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors that make scores of cosines, by name."""
    if (zero_shot := family.zero_shot) is None:
        return {}
    named = (zero_shot.logit_scale, zero_shot.logit_bias)
    return {name: zero_shot.logit_shape for name in named if name is not None}


def heads_of(family: Family) -> Sequence[Classifier]:
    """Return the classifiers whose scores are a family's outputs; none where it gives something else."""
    return () if family.classifiers is None else family.classifiers.heads


def language_of(family: Family) -> Language:
    """Return the part that a language model has. Raises InputError where the family is none."""
    if family.language is None:
        raise InputError(
            f"{family.directory}: found the family {family.name}, which answers nothing in words, expected a "
            "language model"
        )
    return family.language


def calibrated_on(
    family: Family, source: TensorSource, samples: Sequence[Sample], device: torch.device
) -> Sequence[Sample]:
    """Return the samples that a family is calibrated on for an expert, from those of a task."""
    language = family.language
    return samples if language is None else language.passages(source, samples, device)


def rows(family: Family, sample: Sample) -> int:
    """Return how many rows of output a sample has."""
    return len(language_of(family).targets(sample)) if isinstance(sample, Passage) else 1
