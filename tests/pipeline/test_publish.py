"""The model card that a run leaves, from what lies beside the models."""

import json
import shutil
from pathlib import Path

import pytest

from epmq_export.errors import InputError
from epmq_export.pipeline.publish import write_card
from tests.command_line.command import Result


@pytest.fixture
def output(ran: tuple[Path, Result], tmp_path: Path) -> Path:
    """Return an output's report and the files that clients read, without its models."""
    shutil.copy(ran[0] / "report.json", tmp_path)
    for name in ("packed", "onnx"):
        shutil.copytree(
            ran[0] / name, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors", "*.onnx*")
        )
    return tmp_path


def _use(output: Path) -> str:
    """Return the part of the card that says how the files are used."""
    return (output / "README.md").read_text().partition("## Use the files")[2].partition("\n## ")[0]


def test_it_knows_a_model_of_sentence_transformers(output: Path) -> None:
    write_card(output)
    assert "sentence-transformers" not in _use(output)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    (output / "onnx" / "modules.json").write_text(json.dumps(modules))
    write_card(output)
    assert "sentence-transformers" in _use(output)


def test_a_broken_file_beside_the_models_is_named_and_no_card_is_left(output: Path) -> None:
    (output / "onnx" / "modules.json").write_text("{}")
    (output / "README.md").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"modules\.json: found a dict, expected a list"):
        write_card(output)
    assert not (output / "README.md").exists()
