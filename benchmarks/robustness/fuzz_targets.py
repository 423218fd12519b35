"""The readers of files that come from strangers, each as a target of the fuzzer.

A target writes the bytes that it is given in the place of one file among sound ones, and reads that file as
the commands do. A refusal is an error of this project; anything else that is raised is a fault.
"""

import io
import json
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from shutil import copytree, rmtree

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save, save_file

import epmq_export as epmq
from benchmarks.robustness import project
from benchmarks.speed.models import Shape, adapter, pack, with_tokenizer, write_base
from epmq_export.data.images import read_pictures
from epmq_export.data.pictures import decode
from epmq_export.data.request import DataRequest
from epmq_export.data.texts import read_texts
from epmq_export.errors import EpmqError
from epmq_export.installed import registry
from epmq_export.models.tokenizer import fast_tokenizer
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.gguf_file import GgufFile
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.source import TensorSource

# A Llama that is as small as the grids and its tokenizer of bytes let it be.
SHAPE = Shape(width=32, inside=32, layers=1, heads=1, keys=1, vocabulary=288)


@dataclass(frozen=True)
class Target:
    """A reader, and sound files that it reads."""

    seeds: Sequence[bytes]
    read: Callable[[bytes], object]


def _into(file: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Return a function that writes the bytes it is given to a file and reads that."""

    def written(content: bytes) -> object:
        file.write_bytes(content)
        return read(file)

    return written


def _loaded(source: TensorSource) -> None:
    """Load every tensor. Raises AssertionError where one is not as large as the source says."""
    for name in source.names():
        assert tuple(source.load(name).shape) == source.shape(name), name


def _llama(work: Path) -> Path:
    """Return a folder with a Llama and its tokenizer, an adapter on it, and it packed."""
    place = work / "llama"
    if not place.exists():
        built = work / "llama.part"
        rmtree(built, ignore_errors=True)
        base = with_tokenizer(write_base(SHAPE, built / "base"))
        adapter(SHAPE, base, built / "adapter", 1)
        pack(base, built / "packed")
        built.rename(place)
    return place


def _project(work: Path) -> Path:
    """Return the folder of the small project of encoders."""
    place = work / "project"
    if not place.exists():
        rmtree(work / "project.part", ignore_errors=True)
        project.make(work / "project.part").rename(place)
    return place


def _copied(source: Path, folder: Path) -> Path:
    """Return a copy of a directory, in which files are forged."""
    return copytree(source, folder / source.name, dirs_exist_ok=True)


def _recipe(work: Path, folder: Path) -> Target:
    place = _copied(_project(work), folder)
    plain = project.recipe(place, "plain").read_bytes()
    full = project.recipe(
        place,
        "full",
        merge_method="dare_ties",
        parameters={"density": 0.5, "weight": [0.1, 1]},
        calibration={"samples": 8, "method": "epmq", "refine": 10},
        export={"formats": ["gguf", "onnx"], "split_size": "2G"},
        quantization={"grid": "Q4_0"},
    ).read_bytes()
    slices = {
        "base_model": "./base",
        "merge_method": "slerp",
        "slices": [
            {"sources": [{"model": f"./{name}", "layer_range": [0, 2]} for name in ("base", "first")]}
        ],
        "parameters": {"t": [{"filter": "attention", "value": [0, 0.5]}, {"value": 0.5}]},
        "dtype": "bfloat16",
    }
    seeds = [plain, full, yaml.safe_dump(slices, sort_keys=False).encode()]
    return Target(seeds, _into(place / "forged.yaml", epmq.load_recipe))


def _config(work: Path, folder: Path) -> Target:
    encoder, decoder = _copied(_project(work) / "base", folder), _copied(_llama(work) / "base", folder)
    seeds = [(place / "config.json").read_bytes() for place in (encoder, decoder)]

    def read(content: bytes) -> None:
        for place in (encoder, decoder):
            (place / "config.json").write_bytes(content)
        _refused_or(lambda: registry().open_family(encoder).blocks)
        registry().open_family(decoder)

    return Target(seeds, read)


def _refused_or(read: Callable[[], object]) -> None:
    """Read one of several files; that it is refused is right, too."""
    try:
        read()
    except EpmqError:
        return


def _tensors() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(4.0), "b": torch.ones(2, 2, dtype=torch.float16)}


def _safetensors(work: Path, folder: Path) -> Target:
    file = folder / "model.safetensors"
    return Target([save(_tensors())], _into(file, lambda file: _loaded(open_checkpoint(file.parent))))


def _safetensors_header(work: Path, folder: Path) -> Target:
    whole = save(_tensors())
    (length,) = struct.unpack("<Q", whole[:8])
    file = folder / "model.safetensors"

    def read(content: bytes) -> None:
        file.write_bytes(struct.pack("<Q", len(content)) + content + whole[8 + length :])
        _refused_or(lambda: epmq.inspect(file))
        _loaded(open_checkpoint(folder))

    return Target([whole[8 : 8 + length]], read)


def _shards(work: Path, folder: Path) -> Target:
    placed = {}
    for index, (name, value) in enumerate(_tensors().items(), 1):
        placed[name] = f"model-0000{index}-of-00002.safetensors"
        save_file({name: value}, folder / placed[name])
    file = folder / "model.safetensors.index.json"
    seed = json.dumps({"metadata": {"total_size": 24}, "weight_map": placed}).encode()
    return Target([seed], _into(file, lambda file: _loaded(open_checkpoint(file.parent))))


def _adapter(work: Path, folder: Path) -> Target:
    base = open_checkpoint(_llama(work) / "base", naming_of=registry().naming_of)
    file = _copied(_llama(work) / "adapter", folder) / "adapter_config.json"
    content = json.loads(file.read_bytes())
    many = {
        **content,
        "use_rslora": True,
        "rank_pattern": {"q_proj": 16},
        "alpha_pattern": {"q_proj": 4},
        "layers_to_transform": [0],
        "modules_to_save": None,
        "fan_in_fan_out": False,
        "bias": "none",
    }
    seeds = [json.dumps(each).encode() for each in (content, many)]
    return Target(seeds, _into(file, lambda file: _loaded(open_checkpoint(file.parent, base=base))))


def _packed(work: Path, folder: Path) -> Target:
    file = _copied(_llama(work) / "packed", folder) / "packed.json"

    def read(file: Path) -> None:
        _refused_or(lambda: epmq.inspect(file.parent))
        _loaded(Packed(file.parent))

    return Target([file.read_bytes()], _into(file, read))


def _gguf(work: Path, folder: Path) -> Target:
    def read(file: Path) -> None:
        _refused_or(lambda: epmq.inspect(file))
        opened = GgufFile.open(file)
        for name, info in opened.tensors.items():
            assert opened.raw(name).size == info.size, name

    return Target([_written(work, "gguf").read_bytes()], _into(folder / "model.gguf", read))


def _gguf_base(work: Path, folder: Path) -> Target:
    kept = import_module("converters.from_gguf.checkpoint")

    def read(file: Path) -> None:
        try:
            _loaded(open_checkpoint(file, open_gguf=registry().open_gguf))
        finally:
            # They would last as long as the process, one for each file.
            kept._directory.cache_clear()
            while kept._KEPT:
                kept._KEPT.pop().close()

    return Target([_written(work, "gguf").read_bytes()], _into(folder / "model.gguf", read))


def _onnx(work: Path, folder: Path) -> Target:
    packed = Packed(_llama(work) / "packed")
    family, reader = registry().open_family(packed.directory), registry().formats["onnx"]

    def read(file: Path) -> None:
        _refused_or(lambda: epmq.inspect(file))
        opened = reader.open(file, family)
        _refused_or(lambda: opened.differences(packed))
        for tensor in opened.tensors():
            assert tensor.name

    return Target([_written(work, "onnx").read_bytes()], _into(folder / "model.onnx", read))


def _written(work: Path, name: str) -> Path:
    """Return the file of the tiny Llama in a format."""
    packed, out = _llama(work) / "packed", work / f"out-{name}"
    if not out.exists():
        epmq.export(packed, out, formats=[name])
    return registry().formats[name].find(out / name, registry().open_family(packed))


def _tokenizer(work: Path, folder: Path) -> Target:
    return _tokenizer_file(work, folder, "tokenizer.json")


def _tokenizer_settings(work: Path, folder: Path) -> Target:
    return _tokenizer_file(work, folder, "tokenizer_config.json")


def _tokenizer_file(work: Path, folder: Path, name: str) -> Target:
    """Return the target that opens a tokenizer, reads a text with it, and writes it into a GGUF file."""
    packed = _copied(_llama(work) / "packed", folder)
    out = folder / "out"

    def read(file: Path) -> None:
        fast_tokenizer(packed)("The weather is good: the 7th.")
        rmtree(out, ignore_errors=True)
        out.mkdir()
        registry().formats["gguf"].write(Packed(packed), registry().open_family(packed), out)

    return Target([(packed / name).read_bytes()], _into(packed / name, read))


def _npz(work: Path, folder: Path) -> Target:
    read = _into(folder / "images.npz", _pictures)
    return Target([_zipped({name: _npy(value) for name, value in _arrays().items()})], read)


def _npy_member(work: Path, folder: Path) -> Target:
    """Return the target of one array of an .npz: the archive's sums of its bytes are made anew."""
    arrays = {name: _npy(value) for name, value in _arrays().items()}

    def read(content: bytes) -> None:
        for name in arrays:
            (folder / "images.npz").write_bytes(_zipped({**arrays, name: content}))
            _refused_or(lambda: _pictures(folder / "images.npz"))

    return Target([*arrays.values()], read)


def _arrays() -> dict[str, np.ndarray]:
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    return {"x": pixels, "y": np.array([1, 0]), "names": np.array(["cat", "dog"])}


def _npy(value: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


def _zipped(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content)
    return file.getvalue()


def _pictures(file: Path) -> None:
    for picture in read_pictures(DataRequest(path=file)).samples:
        picture.pixels()


def _parquet(work: Path, folder: Path) -> Target:
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    images = [{"bytes": each, "path": None} for each in _images()[:2]]
    rows = arrow.table({"text": ["a good day", "rain"], "image": images, "label": [1, 0]})

    def seed(**settings: object) -> bytes:
        file = io.BytesIO()
        parquet.write_table(rows, file, **settings)
        return file.getvalue()

    def read(file: Path) -> None:
        _refused_or(lambda: read_texts(DataRequest(path=file)))
        _pictures(file)

    seeds = [seed(compression="none", use_dictionary=False), seed()]
    return Target(seeds, _into(folder / "data.parquet", read))


def _image(work: Path, folder: Path) -> Target:
    return Target(_images(), lambda content: decode(content, "image"))


def _images() -> list[bytes]:
    image, found = Image.fromarray(_arrays()["x"][0]), []
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        file = io.BytesIO()
        image.save(file, kind)
        found.append(file.getvalue())
    return found


def _texts(work: Path, folder: Path) -> Target:
    seeds = (b"0\ta good day\n1\train\n", b'{"text": "a", "label": 1}\n', b'text,label\n"a, b",1\n')

    def read(content: bytes) -> None:
        for ending in (".txt", ".tsv", ".jsonl", ".csv", ".txt.gz"):
            file = folder / f"data{ending}"
            file.write_bytes(content)
            _refused_or(lambda file=file: read_texts(DataRequest(path=file)))  # type: ignore[misc]

    return Target(seeds, read)


TARGETS: dict[str, Callable[[Path, Path], Target]] = {
    "recipe": _recipe,
    "config.json": _config,
    "safetensors": _safetensors,
    "safetensors, header": _safetensors_header,
    "index of shards": _shards,
    "LoRA config": _adapter,
    "packed.json": _packed,
    "GGUF": _gguf,
    "GGUF as a base": _gguf_base,
    "ONNX": _onnx,
    "tokenizer.json": _tokenizer,
    "tokenizer_config.json": _tokenizer_settings,
    "npz": _npz,
    "npz, an array": _npy_member,
    "parquet": _parquet,
    "image": _image,
    "lines of texts": _texts,
}
"""Each target by its name. It is made of a folder that all share and of one of its own."""
