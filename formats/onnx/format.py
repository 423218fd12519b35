"""ONNX with 4-bit weights behind DequantizeLinear, which ONNX Runtime fuses into MatMulNBits, in the layout
of optimum and transformers.js.

    config.json, tokenizer files, ...    As in the model's directory, with what clients are told (clients.py).
    genai_config.json                    For a decoder language model: the file of onnxruntime-genai.
    onnx/model_q4.onnx                   Graph and weights (graph.py), with the provenance in the metadata.
    onnx/vision_model_q4.onnx, ...       For a family that is exported as several models. Each has its weights
                                         whole.
    onnx/model_q4.onnx_data, ...         The weights, where they are too large for the file itself
                                         (external.py).

The metadata have these keys: `epmq.version`; `epmq.recipe`, `epmq.inputs`, `epmq.versions` and `epmq.method`
in JSON, as the packed checkpoint has them; `epmq.grids`, in JSON, the grid of each tensor; `epmq.graph`, a
SHA-256 of everything in the file but weights and metadata. That digest guards against accidents, not against
someone who rewrites it too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx import ModelProto, TensorProto

from epmq_export import files
from epmq_export.errors import InputError
from epmq_export.grids import Grid
from epmq_export.models.family import Family
from epmq_export.models.format import PlannedTensor
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.tensors.packed_index import PackedIndex
from formats.onnx import external as onnx_external
from formats.onnx import graph as onnx_graph
from formats.onnx import message as onnx_message
from formats.onnx import weights as onnx_weights
from formats.onnx.companions import FOLDER, files_beside, weights_beside
from formats.onnx.metadata import metadata_of, origin_of
from formats.onnx.parts import PARTS, part_of
from formats.onnx.read import held
from formats.onnx.size import onnx_size
from formats.onnx.spec import NAME, specs_of
from formats.onnx.written import PLAIN, QUANTISED, WrittenOnnx

# The most bytes of weights in the file. Protobuf reads no message of 2 GiB, and the graph gets a generous
# share of that. Larger weights lie beside the file.
LIMIT = 2**31 - 2**24


class OnnxQdq:
    """The format ONNX, with weights as codes behind DequantizeLinear."""

    name = NAME
    packages = ("onnx",)
    grids = frozenset(PARTS)
    # A graph of each kind of block is traced: 3 seconds for MiniLM, 34 for a Llama of 1.1 billion weights.
    fixed_seconds = 2.0, 35.0

    def write(self, packed: Packed, family: Family, folder: Path) -> Path:
        ending = QUANTISED if packed.grids else PLAIN
        models = {
            folder / FOLDER / f"{stem}{ending}": onnx_graph.build(packed, spec)
            for stem, spec in specs_of(family).items()
        }
        _refuse_unused(packed, [*models.values()])
        apart = [path.relative_to(folder).as_posix() for path, model in models.items() if _apart(model)]
        beside = files_beside(packed.directory, family, ending, apart) | weights_beside(packed, family)
        for name, content in beside.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        for path, model in models.items():
            _write(packed, model, path)
        return next(iter(models))

    def sizes(
        self, tensors: Mapping[str, PlannedTensor], family: Family, index: PackedIndex
    ) -> Mapping[str, Mapping[str, int]]:
        ending = QUANTISED if any(isinstance(tensor.storage, Grid) for tensor in tensors.values()) else PLAIN
        origin = origin_of(index)
        found: dict[str, Mapping[str, int]] = {}
        for stem, spec in specs_of(family).items():
            found |= onnx_size(f"{FOLDER}/{stem}{ending}", tensors, spec, family.embeddings, origin, LIMIT)
        return found

    def find(self, folder: Path, family: Family) -> Path:
        main = next(iter(specs_of(family)))
        for ending in (QUANTISED, PLAIN):
            if (path := folder / FOLDER / f"{main}{ending}").exists():
                return path
        raise InputError(f"{folder}: it has no {FOLDER}/{main}{QUANTISED}")

    def open(self, path: Path, family: Family) -> WrittenOnnx:
        return WrittenOnnx(path, family)

    def left_out(self, family: Family) -> frozenset[str]:
        return frozenset()


def _refuse_unused(packed: Packed, models: Sequence[ModelProto]) -> None:
    """Raise InputError where a tensor is in none of the models."""
    if unused := set(packed.names()).difference(*map(held, models)):
        raise InputError(f"{packed.directory}: the exported model does not use tensor {min(unused)}")


def _apart(model: ModelProto) -> bool:
    """Return whether a model's weights are too many for its file."""
    return sum(map(onnx_weights.size, model.graph.initializer)) > LIMIT


def _write(packed: Packed, model: ModelProto, path: Path) -> None:
    """Fill a model that has no data yet, and write it, with its weights beside it where a message cannot hold
    them.
    """
    linears = set(onnx_graph.linears(model.graph))
    metadata = metadata_of(packed, held(model), onnx_graph.digest(model))
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)

    def data(tensor: TensorProto) -> bytes:
        name, _, part = tensor.name.rpartition(".")
        if name not in packed.grids:
            return onnx_weights.encode(tensor, packed.load(tensor.name))
        held = packed.tensor(name)
        assert isinstance(held, PackedTensor)
        value = part_of(held, part)
        return onnx_weights.encode(tensor, value.T if name in linears else value)

    apart = _apart(model)
    beside = onnx_external.beside(path)
    try:
        with files.whole(path) as built:
            if apart:
                with files.whole(beside) as place:
                    onnx_external.write(place, beside.name, model.graph.initializer, data)
                built.write_bytes(model.SerializeToString(deterministic=True))
            else:
                with built.open("wb") as file:
                    onnx_message.write(file, model, data)
    except BaseException:
        if apart:  # Weights without their model are of no use.
            files.remove(beside)
        raise
