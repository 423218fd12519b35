"""The layout of a family in a file, format by format. `converters` give it and `formats` read it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from epmq_export.errors import InputError
from epmq_export.models.family import Export, Family
from epmq_export.tensors.gguf_file import metadata_before, shown

_ARCHITECTURE = "general.architecture"
_SIZES = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count")
"""The ends of the keys in GGUF that models of one size have alike."""

Metadata = Mapping[str, str | int | float | bool | bytes | list[str] | list[int] | list[float]]


@dataclass(frozen=True)
class GgufSpec:
    """The layout of a family in GGUF."""

    architecture: str
    metadata: Metadata
    """The keys after `general.*`, with those of the tokenizer. int is written as uint32, float as float32,
    list[int] as int32, and bytes as an array of uint8.
    """

    names: Mapping[str, str]
    """The GGUF name of every tensor that the file holds, by canonical name. Several of one name are one,
    in which they lie one behind the other along a first axis, in this order.
    """

    called: str | None = None
    """What the model's name in the file has to hold, because runtimes tell by it how to tokenise."""

    left_out: frozenset[str] = frozenset()
    """The canonical names of tensors that the readers of the file do not know."""

    orders: Mapping[str, Tensor] = field(default_factory=dict)
    """The order of rows in the file, for tensors whose rows stand in another order there, by canonical name:
    int64, the index of our row for each row of the file.
    """

    offsets: Mapping[str, float] = field(default_factory=dict)
    """The number that is added to the values in the file, for plain tensors, by canonical name."""

    factors: Mapping[str, float] = field(default_factory=dict)
    """The number that the values are multiplied by in the file, where they are float32, for plain tensors, by
    canonical name.
    """

    begins: Mapping[str, int] = field(default_factory=dict)
    """The first row that the file holds, for plain tensors whose rows before it no text ever reads, by
    canonical name.
    """

    constants: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors that follow from the config, float32, by their names in the file."""

    beside_weights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The safetensors files beside the model with what it has no place for, which `left_out` names too:
    canonical names of tensors by their names in the file, by the file's name.
    """

    @property
    def members(self) -> dict[str, list[str]]:
        """Return the canonical names of what each tensor of the file is made of, by its name there."""
        found: dict[str, list[str]] = {}
        for here, there in self.names.items():
            found.setdefault(there, []).append(here)
        return found


@dataclass(frozen=True, kw_only=True)
class GgufExport(Export):
    """A family in GGUF."""

    spec: Callable[[], GgufSpec]
    """A function that returns the layout. It raises InputError where the runtimes cannot read this model at
    all.
    """

    def require(self) -> None:
        self.spec()

    def require_model(self, path: Path) -> None:
        spec = self.spec()
        said = {key: held.value for key, held in metadata_before(path, "tokenizer.").items()}
        sizes = {key: value for key, value in spec.metadata.items() if key.endswith(_SIZES)}
        for key, expected in {_ARCHITECTURE: spec.architecture, **sizes}.items():
            if (found := said.get(key, expected)) != expected:
                raise InputError(
                    f"{path}: key {key} is {shown(str(found))}, expected {expected!s}, as the base has it"
                )


@dataclass(frozen=True, kw_only=True)
class OnnxPart:
    """A step of a model in ONNX: a module that reads some values by their names and makes others."""

    build: Callable[[], nn.Module] = nn.Module
    """A function that returns the module, its parameters on the meta device."""

    prefix: str = ""
    """The prefix that turns names in the module into canonical names of tensors."""

    run: Callable[..., tuple[Tensor, ...]]
    """A function that is given the module and the values of `reads`, and returns those of `makes`."""

    reads: Sequence[str]
    """The names of the values that it reads: inputs of the model, or what parts before this one make."""

    makes: Sequence[str]

    like: str | None = None
    """What parts have in common that compute alike, each with weights of its own. Such parts are traced once,
    where their modules are alike too.
    """


@dataclass(frozen=True, kw_only=True)
class OnnxSpec:
    """One model that a family is exported as in ONNX."""

    parts: Sequence[OnnxPart]
    """Its steps, in the order of the data."""

    example: Mapping[str, Tensor]
    """One batch, by the names of the inputs."""

    inputs: Mapping[str, Mapping[int, str]]
    """The names of inputs, in order, each with the names of its dynamic axes."""

    outputs: Mapping[str, Mapping[int, str]]
    """The names of outputs, in order, each with the names of its dynamic axes."""

    towers: Sequence[Family]
    """The families that the model runs, by the samples that it is given."""

    beside_weights: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The files of weights that clients read beside the graph: canonical names of tensors by their names in
    the file, by the file's name.
    """

    beside: Callable[[str], Mapping[str, object]] = lambda model: {}
    """A function that returns the files that runtimes need beside the models' folder: JSON by the file's
    name, given the path of the model's own file from there.
    """

    def tensors(self) -> list[str]:
        """Return the canonical names of the tensors that the parts have."""
        names = (f"{part.prefix}{name}" for part in self.parts for name, _ in part.build().named_parameters())
        return [*dict.fromkeys(names)]


@dataclass(frozen=True, kw_only=True)
class OnnxExport(Export):
    """A family in ONNX."""

    specs: Callable[[], Mapping[str, OnnxSpec]]
    """A function that returns the models that it is exported as, by the names of their files without ending.
    Tasks are judged by the first.
    """
