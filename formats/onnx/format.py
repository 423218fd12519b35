"""ONNX with 4-bit weights behind DequantizeLinear, which ONNX Runtime fuses into MatMulNBits, in the layout
of optimum and transformers.js.

    config.json, tokenizer files, ...    as in the model's directory
    genai_config.json                    of a decoder language model, for onnxruntime-genai
    onnx/model_q4.onnx                   graph and weights (onnx_graph.py); provenance in the metadata
    onnx/vision_model_q4.onnx, ...       of a family that is exported as several models: each has its weights
                                         whole
    onnx/model_q4.onnx_data, ...         the weights, where they are too large for the file itself
                                         (onnx_external.py)

Metadata keys: `epmq.version`; `epmq.recipe`, `epmq.inputs`, `epmq.versions`, `epmq.method` in JSON, as the
packed checkpoint has them; `epmq.grids`, JSON, the grid by tensor; `epmq.graph`, a SHA-256 of everything in
the file but weights and metadata. That digest guards against accidents, not against someone who rewrites it
too.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto
from torch import Tensor

from epmq_export import files
from epmq_export._version import __version__
from epmq_export.errors import InputError, first_line
from epmq_export.grids import GRIDS, Grid
from epmq_export.grids.zeroed import Zeroed
from epmq_export.models.family import Family
from epmq_export.models.format import PlannedTensor, StoredTensor
from epmq_export.models.specs import OnnxExport, OnnxSpec
from epmq_export.tensors.companions import companions, copy_companions
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.tensors.packed_index import PackedIndex
from formats.onnx import external as onnx_external
from formats.onnx import graph as onnx_graph
from formats.onnx import weights as onnx_weights
from formats.onnx.size import onnx_size

FOLDER = "onnx"
# As transformers.js asks for them by dtype: q4, and fp32 where nothing is on a grid.
QUANTISED, PLAIN = "_q4.onnx", ".onnx"
# Protobuf reads no message of 2 GiB; the graph itself gets a generous share of it. Weights that take more lie
# beside it.
LIMIT = 2**31 - 2**24


class OnnxQdq:
    name = "onnx"
    grids = frozenset(onnx_graph.PARTS)
    packages = ("onnx",)

    def write(self, packed: Packed, family: Family, folder: Path) -> Path:
        ending = QUANTISED if packed.grids else PLAIN
        models = {
            folder / FOLDER / f"{stem}{ending}": onnx_graph.build(packed, spec)
            for stem, spec in specs_of(family).items()
        }
        _refuse_unused(packed, [*models.values()])
        copy_companions(packed.directory, folder)
        for name, content in _beside(family, ending).items():
            (folder / name).write_bytes(content)
        paths = [*models]
        for path in paths:
            _write(packed, models.pop(path), path)  # with its weights a model is large: one at a time
        return paths[0]

    def sizes(
        self, tensors: Mapping[str, PlannedTensor], family: Family, index: PackedIndex
    ) -> Mapping[str, Mapping[str, int]]:
        ending = QUANTISED if any(isinstance(tensor.storage, Grid) for tensor in tensors.values()) else PLAIN
        origin = {
            key: json.dumps(value, ensure_ascii=False, sort_keys=True)
            for key, value in _origin(index).items()
        }
        found: dict[str, Mapping[str, int]] = {}
        for stem, spec in specs_of(family).items():
            found |= onnx_size(f"{FOLDER}/{stem}{ending}", tensors, spec, family.embeddings, origin, LIMIT)
        return found

    def find(self, folder: Path) -> Path:
        found = (
            {path.name for path in (folder / FOLDER).glob("*.onnx")} if (folder / FOLDER).is_dir() else set()
        )
        for name in (
            f"{stem}{ending}"
            for stem in ("vision_model", "encoder_model", "model")
            for ending in (QUANTISED, PLAIN)
        ):
            if name in found:
                return folder / FOLDER / name
        raise InputError(f"{folder}: it has no {FOLDER}/model{QUANTISED}")

    def contents(self, path: Path, family: Family) -> Mapping[Path, Sequence[Family]]:
        """Each of the family's models beside the given one, with the file of its weights where it has one; of
        a file of another name, itself alone.
        """
        models = _models(path, family)
        weights: dict[Path, Sequence[Family]] = {
            beside: [] for model in models if (beside := onnx_external.beside(model)).is_file()
        }
        return {**models, **weights}

    def tensors(self, path: Path, family: Family) -> Iterator[StoredTensor]:
        """Codes int8 [out, in] and stored numbers, as the packed checkpoint has them, or plain float16 or
        float32.

        A scale that is no float16 value, which no written file has, comes back as NaN: it equals none of the
        checkpoint's.
        """
        for file in _models(path, family):
            model = _read(file)
            grids = _grids(file, model)
            stored = {tensor.name: tensor for tensor in model.graph.initializer}
            linears = set(onnx_graph.linears(model.graph))
            for name, grid in grids.items():
                yield StoredTensor(name, _on_grid(file, stored, name, grid, name in linears))
            for name, tensor in stored.items():
                if name.rpartition(".")[0] not in grids:
                    yield StoredTensor(name, _decode(file, tensor))

    def left_out(self, family: Family) -> frozenset[str]:
        return frozenset()

    def differences(self, path: Path, packed: Packed, family: Family) -> list[str]:
        """The graph is compared by the digest in the metadata, so that it takes no exporter of the version
        that wrote the file.
        """
        models = {file: _read(file) for file in _models(path, family)}
        stray = [
            file
            for file, model in models.items()
            if onnx_external.beside(file).exists() and not onnx_external.used(model)
        ]
        sentences = [
            f"{onnx_external.beside(file).name} holds nothing of {file.name}, which has its weights in itself"
            for file in stray
        ]
        sentences += [sentence for model in models.values() for sentence in _differences(model, packed)]
        ending = QUANTISED if path.name.endswith(QUANTISED) else PLAIN
        return sentences + _companion_differences(
            path.parent.parent, packed.directory, _beside(family, ending)
        )

    def exact(self, path: Path, scratch: Path) -> Path:
        """The file itself: a session computes exactly if asked to."""
        return path

    def notes(self, path: Path, family: Family) -> dict[str, Any]:
        """Return `linears`: how many quantised linears are in the files."""
        return {"linears": sum(len(onnx_graph.linears(_read(file).graph)) for file in _models(path, family))}


def specs_of(family: Family) -> Mapping[str, OnnxSpec]:
    """Return the family's models in ONNX; InputError where it has none."""
    found = family.exports.get(OnnxQdq.name)
    if not isinstance(found, OnnxExport):
        raise InputError(
            f"{family.directory}: found the family {family.name}, which no runtime reads as ONNX, expected "
            f"{' or '.join(family.exports)}"
        )
    return found.specs()


def _models(path: Path, family: Family) -> dict[Path, Sequence[Family]]:
    """The family's models, each with the towers that a runtime can run it for."""
    specs = specs_of(family)
    main = next(iter(specs))
    if not path.name.startswith(main):
        return {path: [family]}
    ending = path.name.removeprefix(main)
    return {path.with_name(f"{stem}{ending}"): list(spec.towers) for stem, spec in specs.items()}


def _held(model: ModelProto) -> set[str]:
    """The names of a model's tensors, and of those that its initializers are parts of."""
    return {
        name for tensor in model.graph.initializer for name in (tensor.name, tensor.name.rpartition(".")[0])
    }


def _refuse_unused(packed: Packed, models: Sequence[ModelProto]) -> None:
    """InputError where a tensor is in none of the models."""
    if unused := set(packed.names()).difference(*map(_held, models)):
        raise InputError(f"{packed.directory}: the exported model does not use tensor {min(unused)}")


def _write(packed: Packed, model: ModelProto, path: Path) -> None:
    """Fill a model that has no data yet, and write it, its weights beside it where a message cannot hold
    them.
    """
    linears = set(onnx_graph.linears(model.graph))
    metadata = _metadata(packed, _held(model), onnx_graph.digest(model))
    for key, text in metadata.items():
        model.metadata_props.add(key=key, value=text)
    weights = model.graph.initializer

    def data(tensor: TensorProto) -> bytes:
        name, _, part = tensor.name.rpartition(".")
        if name not in packed.grids:
            return onnx_weights.encode(tensor, packed.load(tensor.name))
        value = _part(packed.tensor(name), part)
        return onnx_weights.encode(tensor, value.T if name in linears else value)

    apart = sum(map(onnx_weights.size, weights)) > LIMIT
    beside = onnx_external.beside(path)
    try:
        with files.whole(path) as built:
            if apart:
                with files.whole(beside) as place:
                    onnx_external.write(place, beside.name, weights, data)
            else:
                for tensor in weights:
                    tensor.raw_data = data(tensor)
            built.write_bytes(model.SerializeToString(deterministic=True))
    except BaseException:
        if apart:  # weights without their model are half of something
            files.remove(beside)
        raise


def _differences(model: ModelProto, packed: Packed) -> list[str]:
    found = _metadata_of(model)
    digest = onnx_graph.digest(model)
    expected = _metadata(packed, _held(model), digest)
    sentences = [
        f"metadata key {key} is {_short(found.get(key))}, expected {_short(expected.get(key))}"
        for key in sorted(found.keys() | expected.keys())
        if found.get(key) != expected.get(key) and key != "epmq.graph"
    ]
    if found.get("epmq.graph") != digest:
        sentences.append(
            f"the graph's SHA-256 is {digest}, but metadata key epmq.graph is "
            f"{_short(found.get('epmq.graph'))}"
        )
    return sentences


def _metadata(packed: Packed, held: Collection[str], digest: str) -> dict[str, str]:
    content = _origin(packed.index)
    content["grids"] = {name: grid.name for name, grid in sorted(packed.grids.items()) if name in held}
    texts = {
        f"epmq.{key}": json.dumps(value, ensure_ascii=False, sort_keys=True) for key, value in content.items()
    }
    return {"epmq.version": __version__, **texts, "epmq.graph": digest}


def _origin(index: PackedIndex) -> dict[str, Any]:
    """Return what says where the file comes from, in the order of its metadata."""
    return {key: index.provenance[key] for key in ("recipe", "inputs", "versions", "method")}


def _read(path: Path) -> ModelProto:
    """The model, well-formed; not a word of its weights is believed before their types, sizes and places are
    checked.
    """
    model = ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
        apart = onnx_external.used(model)
        if not apart:
            onnx.checker.check_model(model)
        readable = all(isinstance(name, str) for name in _names(model))
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror})") from None
    except DecodeError:
        raise InputError(f"{path}: not an ONNX file, or not all of one") from None
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a valid ONNX model ({first_line(error)})") from None
    if not readable:  # protobuf then gives bytes for a string, or raises
        raise InputError(f"{path}: not a valid ONNX model (a name in it is not UTF-8)")
    for tensor in model.graph.initializer:
        onnx_weights.check(tensor, str(path))
    # The checker itself opens what lies elsewhere, so not before the places are checked; it finds it for a
    # path only.
    if apart:
        onnx_external.check(path, model)
        try:
            onnx.checker.check_model(str(path))
        except onnx.checker.ValidationError as error:
            raise InputError(f"{path}: not a valid ONNX model ({first_line(error)})") from None
    return model


def _names(model: ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        yield from (*node.input, node.op_type)
    for tensor in model.graph.initializer:
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    for item in model.metadata_props:
        yield from (item.key, item.value)


def _metadata_of(model: ModelProto) -> dict[str, str]:
    return {
        item.key: item.value for item in model.metadata_props
    }  # the checker has refused a key that stands there twice


def _grids(path: Path, model: ModelProto) -> dict[str, Grid]:
    text = _metadata_of(model).get("epmq.grids")
    if text is None:
        raise InputError(f"{path}: it has no metadata key epmq.grids: this project did not write it")
    try:
        grids = json.loads(text)
        return {name: GRIDS[grid] for name, grid in grids.items() if onnx_graph.PARTS[grid]}
    except (ValueError, AttributeError, KeyError, TypeError):
        raise InputError(
            f"{path}: metadata key epmq.grids is {_short(text)}, expected a JSON object of tensors and "
            f"{', '.join(onnx_graph.PARTS)}"
        ) from None


def _part(held: PackedTensor | Tensor, part: str) -> Tensor:
    """What an initializer of a tensor on a grid holds."""
    assert isinstance(held, PackedTensor)
    if part == "zeros":
        assert isinstance(held.grid, Zeroed)
        return held.grid.zeros(held.stored)
    return held.codes if part == "codes" else held.stored[part]


def _decode(path: Path, tensor: TensorProto) -> Tensor:
    return onnx_weights.decode(tensor, onnx_external.read(path, tensor))


def _on_grid(path: Path, stored: dict[str, TensorProto], name: str, grid: Grid, linear: bool) -> PackedTensor:
    parts = onnx_graph.PARTS[grid.name]
    for part in parts:
        if f"{name}.{part}" not in stored:
            raise InputError(
                f"{path}: {name}.{part} is missing, metadata key epmq.grids says that {name} is on grid "
                f"{grid.name}"
            )
    tensors = {part: stored[f"{name}.{part}"] for part in parts}
    kind = onnx_graph.KINDS[grid.name][not linear]
    wanted = {"codes": kind, "scales": TensorProto.FLOAT, "zeros": kind}
    for part, tensor in tensors.items():
        if tensor.data_type != wanted[part]:
            expected = TensorProto.DataType.Name(wanted[part])
            raise InputError(
                f"{path}: {name} has {part} in {onnx_weights.type_name(tensor)}, expected {expected} on "
                f"grid {grid.name}"
            )
    dims = {part: list(tensor.dims[::-1] if linear else tensor.dims) for part, tensor in tensors.items()}
    shape = dims.pop("codes")
    if (
        len(shape) != 2
        or not grid.fits((shape[0], shape[1]))
        or any(found != [shape[0], shape[1] // grid.group] for found in dims.values())
    ):
        shown = " and ".join(f"{part} of dims {list(tensor.dims)}" for part, tensor in tensors.items())
        raise InputError(f"{path}: {name} has {shown}, which is no {grid.name}")
    values = {part: _decode(path, tensor) for part, tensor in tensors.items()}
    if linear:
        values = {part: value.T.contiguous() for part, value in values.items()}
    found = {"scales": onnx_weights.halves(values["scales"])}
    if "zeros" in values:
        found["mins"] = (0.0 - values["scales"] * values["zeros"]).half()
    return PackedTensor(grid, values["codes"].view(torch.int8), found)


def _beside(family: Family, ending: str) -> dict[str, bytes]:
    """By name, the files that runtimes want beside the models' folder."""
    found = {
        name: content
        for stem, spec in specs_of(family).items()
        for name, content in spec.beside(f"{FOLDER}/{stem}{ending}").items()
    }
    return {name: (json.dumps(content, indent=2) + "\n").encode() for name, content in found.items()}


def _companion_differences(folder: Path, source: Path, own: Mapping[str, bytes]) -> list[str]:
    """`own` are the files that are written here, whatever the source has under their names."""
    wanted = {path.relative_to(source).as_posix(): path.read_bytes() for path in companions(source)} | dict(
        own
    )
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in companions(folder)}
    shared = wanted.keys() & found.keys()
    return sorted(
        [f"{name} is missing" for name in wanted.keys() - shared]
        + [f"{name} is not among the packed checkpoint's files" for name in found.keys() - shared]
        + [f"{name} differs from the packed checkpoint's" for name in shared if wanted[name] != found[name]]
    )


def _short(text: str | None) -> str:
    if text is None:
        return "missing"
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
