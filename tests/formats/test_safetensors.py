"""The format of an ordinary Hugging Face directory: the values of the codes, bit for bit, in loaders of
others and in PyTorch, and every difference named.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from converters import open_family
from epmq_export.calibration.rounding import nearest
from epmq_export.errors import InputError
from epmq_export.grids import GRIDS
from epmq_export.models.family import Family
from epmq_export.models.format import PlannedTensor
from epmq_export.tensors import packed_writer as packing
from epmq_export.tensors import shards
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.tensors.safetensors_header import read_header
from epmq_export.tensors.source import renamed
from epmq_export.verification.checks import check_codes, check_graph
from epmq_export.verification.runtimes.torch.runtime import Torch
from formats.safetensors.format import Safetensors
from tests.command_line.command import Warm
from tests.families.models import EMBEDS, MODELS
from tests.tiny.packed_index import an_index

FORMAT, RUNTIME = Safetensors(), Torch(open_family)
CAUSAL = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "smollm3",
    "granite",
    "olmo2",
    "phi3",
    "qwen3_moe",
    "olmoe",
    "mixtral",
)


def pack(directory: Path) -> tuple[Packed, Family]:
    """Pack a model: matrices of its blocks on Q4_0 where that fits, the tables in half precision."""
    family = open_family(directory)
    source = renamed(open_checkpoint(directory), family.canonical)
    steps = {
        f"{block.prefix}{path}.weight" for block in family.blocks for step in block.steps for path in step
    }
    tensors: dict[str, PackedTensor | torch.Tensor] = {}
    for name in source.names():
        value = source.load(name).float()
        on_grid = name in steps and value.ndim == 2 and value.shape[1] % 32 == 0
        plain = value.half() if name in family.embeddings else value
        tensors[name] = nearest(value, GRIDS["Q4_0"]) if on_grid else plain
    place = directory.with_name("packed")
    packing.write(place, tensors, an_index(family.name), directory)
    return Packed(place), family


@pytest.fixture(scope="module", params=MODELS)
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Packed, Family, Path]:
    folder = tmp_path_factory.mktemp("safetensors")
    packed, family = pack(MODELS[request.param].write(folder / "model"))
    (folder / "out" / "safetensors").mkdir(parents=True)
    return request.param, packed, family, FORMAT.write(packed, family, folder / "out" / "safetensors")


def test_it_is_the_packed_model_in_pytorch(written: tuple[str, Packed, Family, Path]) -> None:
    _, packed, family, path = written
    opened = FORMAT.open(path, family)
    assert packed.grids and opened.differences(packed) == []
    assert check_codes(opened, packed, (), [RUNTIME]).broken == []
    graph = check_graph(opened, packed, family.exports["safetensors"], RUNTIME, 1e-6)
    assert graph.broken == [] and graph.facts["value"] == 0


def apart(kind: str, tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the linears of mixtures' experts, which transformers puts together in memory, and of Mixtral's
    also the routers, by their names in a checkpoint.
    """
    gate, up, down = ("w1", "w3", "w2") if kind == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    parts = {"gate_up_proj": (gate, up), "down_proj": (down,)}
    for name, value in tensors.items():
        own = name.replace(".mlp.", ".block_sparse_moe.") if kind == "mixtral" else name
        place, _, which = own.rpartition(".")
        if own != name and place.endswith(".gate"):
            yield own, value
        if not place.endswith(".experts") or which not in parts:
            continue
        for expert, whole in enumerate(value):
            for part, weight in zip(parts[which], whole.chunk(len(parts[which])), strict=True):
                yield f"{place}.{expert}.{part}.weight", weight


@pytest.mark.filterwarnings("ignore")
def test_transformers_loads_its_values(written: tuple[str, Packed, Family, Path]) -> None:
    kind, packed, _, path = written
    # Decoders that embed texts have their tensors under the language model's names.
    library = AutoModelForCausalLM if kind in CAUSAL or kind.endswith(EMBEDS) else AutoModel
    library = AutoModelForSeq2SeqLM if kind == "t5" else library
    model, told = library.from_pretrained(path.parent, output_loading_info=True)
    assert not told["unexpected_keys"] and not told["mismatched_keys"] and model.dtype == torch.float32
    found = {name: value.detach() for name, value in model.state_dict().items()}
    # DINOv3's layers are in a module that the names in files leave out.
    found |= {name.removeprefix("model."): value for name, value in found.items()}
    found |= dict(apart(kind, found))
    held = [name for name in packed.names() if name in found]
    assert len(held) > len(packed.names()) / 2
    for name in held:
        assert torch.equal(found[name], packed.load(name).float()), name
    if (path.parent / "tokenizer.json").exists():
        text = "the cat sat on the mat ."
        # The library's own class of SigLIP's needs sentencepiece.
        library = PreTrainedTokenizerFast if kind == "siglip" else AutoTokenizer
        tokenizers = [library.from_pretrained(place) for place in (path.parent, packed.directory)]
        assert tokenizers[0](text)["input_ids"] == tokenizers[1](text)["input_ids"]


@pytest.fixture
def small(tmp_path: Path) -> tuple[Packed, Family, Path]:
    packed, family = pack(MODELS["bert"].write(tmp_path / "model"))
    folder = tmp_path / "out" / "safetensors"
    folder.mkdir(parents=True)
    return packed, family, FORMAT.write(packed, family, folder)


def test_it_says_where_it_comes_from_and_is_as_large_as_planned(small: tuple[Packed, Family, Path]) -> None:
    packed, family, path = small
    metadata = read_header(path).metadata
    assert metadata["format"] == "pt" and json.loads(metadata["epmq.recipe"]) == packed.index.recipe
    planned = {name: PlannedTensor(packed.shape(name), packed.storage(name)) for name in packed.names()}
    (sizes,) = FORMAT.sizes(planned, family, packed.index).values()
    assert sizes["F32"] == sum(value.nbytes for value in load_file(path).values())
    assert sum(sizes.values()) == pytest.approx(path.stat().st_size, rel=0.01)


def changed_value(path: Path) -> None:
    tensors = load_file(path)
    name = max(tensors, key=lambda name: tensors[name].numel())
    tensors[name].view(-1)[0] += 1
    save_file(tensors, path, read_header(path).metadata)


def changed_dtype(path: Path) -> None:
    tensors = {name: value.half() for name, value in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})


def changed_config(path: Path) -> None:
    place = path.with_name("config.json")
    place.write_text(json.dumps({**json.loads(place.read_text()), "layer_norm_eps": 1e-3}))


@pytest.mark.parametrize(
    ("change", "said", "codes"),
    [
        (changed_value, (), "1 of "),
        (changed_dtype, ("is float16, expected float32", "model.safetensors: metadata key epmq."), ""),
        (changed_config, ("config.json differs from the packed checkpoint's",), None),
    ],
)
def test_a_change_is_named(
    change: Callable[[Path], None],
    said: tuple[str, ...],
    codes: str | None,
    small: tuple[Packed, Family, Path],
) -> None:
    packed, family, path = small
    change(path)
    opened = FORMAT.open(path, family)
    found = opened.differences(packed)
    assert all(any(part in sentence for sentence in found) for part in said) and bool(found) == bool(said)
    broken = check_codes(opened, packed, (), [RUNTIME]).broken
    assert bool(broken) == (codes is not None) and all(str(codes) in sentence for sentence in broken)


def test_large_weights_are_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, family = pack(MODELS["bert"].write(tmp_path / "model"))
    monkeypatch.setattr(shards, "SHARD_BYTES", 100_000)
    (tmp_path / "out").mkdir()
    path = FORMAT.write(packed, family, tmp_path / "out")
    opened = FORMAT.open(path, family)
    assert path.name == "model.safetensors.index.json" and len(opened.files(family)) > 2
    assert opened.differences(packed) == [] and check_codes(opened, packed, (), [RUNTIME]).passed
    AutoModel.from_pretrained(tmp_path / "out")


def test_nothing_there(tmp_path: Path) -> None:
    family = open_family(MODELS["bert"].write(tmp_path / "model"))
    with pytest.raises(InputError, match=r"it has no model\.safetensors"):
        FORMAT.find(tmp_path, family)


def test_the_command_writes_and_verifies_it(epmq: Warm, ran: tuple[Path, object], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "packed").symlink_to(ran[0] / "packed")
    done = epmq("export", "out/packed", "-o", "out", "--format", "safetensors", folder=tmp_path)
    assert (done.code, done.stdout.strip()) == (0, "out/safetensors/model.safetensors")
    judged = epmq("verify", "out", "--json", "report.json", folder=tmp_path)
    assert judged.code == 0 and "safetensors in torch" in judged.stdout
    (file,) = json.loads((tmp_path / "report.json").read_text())["files"]
    assert file["checks"]["graph"]["value"] == 0 and file["checks"]["codes"]["equal"]
