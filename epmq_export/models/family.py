"""What the method asks of a model family. `converters` answers; nothing here knows BERT from CLIP.

A family is bound to one model directory (its config and tokenizer) and to no weights: weights come as a
`TensorSource`, by canonical name, so that one family serves the base, every expert, the merge and the packed
checkpoint.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, cast

import torch
from torch import Tensor, nn

from epmq_export.models.samples import Passage, Sample
from epmq_export.models.specs import GgufSpec, OnnxSpec
from epmq_export.tensors.source import TensorSource

Batch = Mapping[str, Tensor]


class Block(Protocol):
    """A run of modules between two hidden states. The first block of a family makes the hidden state from the
    batch.
    """

    @property
    def name(self) -> str:
        """For people and for files: `encoder.layer.3`."""
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
        """The family's own module, its parameters on the meta device."""
        ...

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        """The next hidden state, [batch, length, width]."""
        ...

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        """How much each row of a step's input, of shape [batch, length, in], counts in its statistics:
        float32 [batch, length]; 0 for padding.
        """
        ...


class Family(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def directory(self) -> Path:
        """Config, tokenizer and everything else that must travel with the weights."""
        ...

    @property
    def blocks(self) -> Sequence[Block]: ...

    @property
    def modality(self) -> Literal["text", "image", "language"]:
        """What its samples are: texts to embed, pictures, or texts to go on with (a `LanguageFamily`)."""
        ...

    @property
    def runtimes(self) -> Mapping[str, str]:
        """The formats that it can be written in, each with the runtime that reads it."""
        ...

    @property
    def text_tower(self) -> "Family | None":
        """What embeds label texts where this family's outputs are: itself for a text encoder; None where
        there is nothing of the kind.
        """
        ...

    @property
    def logit_scale(self) -> str | None:
        """The tensor that holds the logarithm of what cosines are multiplied by; None for a text encoder's
        usual 20.
        """
        ...

    @property
    def embeddings(self) -> Sequence[str]:
        """Tensors that are tables of rows by token, which a recipe may store on a grid of their own."""
        ...

    @property
    def halves(self) -> Sequence[str]:
        """Tensors that are stored in F16, whatever a recipe says, because a runtime takes nothing else."""
        ...

    @property
    def frozen(self) -> Sequence[str]:
        """fnmatch patterns of the canonical names that a merge leaves as the base's, unless the recipe says
        otherwise.
        """
        ...

    def canonical(self, name: str) -> str | None:
        """A checkpoint's tensor name as this project uses it; None for one that the exported model does not
        need.
        """
        ...

    def truncate(self, sample: Sample) -> Sample:
        """The part of a sample that fits the model, so that every runtime is given the same."""
        ...

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[Batch]:
        """Tokenised and padded, or preprocessed, in the given order."""
        ...

    def later(self, batch: Batch) -> Batch:
        """What blocks after the first read of a batch."""
        ...

    def output(self, hidden: Tensor, batch: Batch) -> Tensor:
        """What the task reads off the last hidden state, float32 [batch, width]; of passages, a row a scored
        token. Not of questions.
        """
        ...

    def gguf(self) -> GgufSpec: ...

    def onnx(self) -> Mapping[str, OnnxSpec]:
        """The models that it is exported as, by the names of their files without ending; the first is the one
        that tasks are judged by.
        """
        ...

    def approximate(self) -> "Family":
        """This family with the approximations that ggml computes with (a tanh GELU), for exact comparison."""
        ...


class LanguageFamily(Family, Protocol):
    """A family whose outputs are scores of what comes next, [rows, vocabulary], before softmax: one row for a
    text, of what follows it; for a passage one row for each token of its target.
    """

    def targets(self, passage: Passage) -> list[int]:
        """The tokens that a passage's rows are to predict; InputError where its target has none."""
        ...

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        ...

    def answers(
        self, source: TensorSource, texts: Sequence[str], limit: int, device: torch.device
    ) -> list[list[int]]:
        """The tokens that the model with the source's weights goes on with behind each text, the likeliest
        each time, in float32: up to `limit` of them, the one that ends an answer counted.
        """
        ...

    def said(self, answer: Sequence[int]) -> str:
        """An answer's tokens as text, without special ones and without the white space around it."""
        ...

    def passages(
        self, source: TensorSource, samples: Sequence[Sample], device: torch.device
    ) -> Sequence[Sample]:
        """Unlabelled samples as the model is calibrated on them, for the expert that `source` is. Where a
        decoder reads what an encoder does not, texts get targets for it: the expert's own greedy answers. As
        they are where a text is all that there is to read.
        """
        ...

    def agreement(self) -> Callable[[str], bool]:
        """Of a text, whether ggml's tokenizer finds the model's tokens in it, by the differences that no file
        can help.
        """
        ...


def calibrated_on(
    family: Family, source: TensorSource, samples: Sequence[Sample], device: torch.device
) -> Sequence[Sample]:
    """What a family is calibrated on for an expert, of a task's samples."""
    return (
        cast(LanguageFamily, family).passages(source, samples, device)
        if family.modality == "language"
        else samples
    )


def rows(family: Family, sample: Sample) -> int:
    """How many rows of output a sample has."""
    return len(cast(LanguageFamily, family).targets(sample)) if isinstance(sample, Passage) else 1
