from dataclasses import dataclass
from pathlib import Path

import pytest

from converters import open_family
from epmq_export.models.family import Family
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.source import Renamed, renamed
from tests.families.models import MODELS, Model


@dataclass(frozen=True)
class Opened:
    """A model of a family, opened."""

    model: Model
    directory: Path
    family: Family
    source: Renamed
    """Its tensors under canonical names."""


@pytest.fixture(scope="session", params=MODELS)
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    model = MODELS[request.param]
    return _opened(model, model.write(tmp_path_factory.mktemp(request.param) / "model"))


@pytest.fixture(scope="session")
def light(opened: Opened, tmp_path_factory: pytest.TempPathFactory) -> Opened:
    """Return the model with fewer layers, where it has more than its family needs."""
    if opened.model.light is None:
        return opened
    return _opened(opened.model, opened.model.light(tmp_path_factory.mktemp("light") / "model"))


def _opened(model: Model, directory: Path) -> Opened:
    family = open_family(directory)
    return Opened(model, directory, family, renamed(open_checkpoint(directory), family.canonical))
