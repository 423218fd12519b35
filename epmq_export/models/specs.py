"""How a family is laid out in a file, format by format: what `converters` say and `formats` read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from epmq_export.models.family import Export, Family
from epmq_export.tensors.source import TensorSource

Metadata = Mapping[str, str | int | float | bool | bytes | list[str] | list[int] | list[float]]


@dataclass(frozen=True)
class GgufSpec:
    """How a family is laid out in GGUF."""

    architecture: str
    metadata: Metadata
    """Keys past `general.*`, tokenizer included. int is written as uint32, float as float32, list[int] as
    int32, bytes as an array of uint8.
    """

    names: Mapping[str, str]
    """Canonical tensor name -> GGUF tensor name, for every tensor the file holds."""

    left_out: frozenset[str] = frozenset()
    """Canonical names of tensors that the file's readers know nothing of."""

    orders: Mapping[str, Tensor] = field(default_factory=dict)
    """Canonical names of tensors whose rows stand in another order in the file: int64, the row of ours that
    each of the file's rows is.
    """

    offsets: Mapping[str, float] = field(default_factory=dict)
    """Canonical names of plain tensors, and what is added to their values in the file."""

    factors: Mapping[str, float] = field(default_factory=dict)
    """Canonical names of plain tensors, and what their values are multiplied by in the file, where they are
    float32.
    """

    constants: Mapping[str, Tensor] = field(default_factory=dict)
    """By the name in the file: float32 tensors that follow from the config."""


@dataclass(frozen=True, kw_only=True)
class GgufExport(Export):
    """What a family is in GGUF."""

    spec: Callable[[], GgufSpec]
    """Return the layout; InputError where the runtimes cannot read this model at all."""

    def require(self) -> None:
        self.spec()


@dataclass(frozen=True)
class OnnxSpec:
    """How one model of a family is exported to ONNX."""

    build: Callable[[TensorSource], nn.Module]
    """Return a module with weights; each parameter's name ends in its canonical tensor name."""

    example: Mapping[str, Tensor]
    """One batch, as keyword arguments of the module's forward."""

    inputs: Mapping[str, Mapping[int, str]]
    """Input names, in order, with the names of their dynamic axes."""

    outputs: Mapping[str, Mapping[int, str]]
    """Output names, in order, with the names of their dynamic axes."""

    towers: Sequence[Family]
    """What the model runs, by the samples that it is given."""

    beside: Callable[[str], Mapping[str, object]] = lambda model: {}
    """Return what runtimes ask for beside the models' folder: JSON by the file's name, given the path of the
    model's own file from there.
    """


@dataclass(frozen=True, kw_only=True)
class OnnxExport(Export):
    """What a family is in ONNX."""

    specs: Callable[[], Mapping[str, OnnxSpec]]
    """Return the models that it is exported as, by the names of their files without ending; the first is the
    one that tasks are judged by.
    """
