"""The chain of stages with families that cannot be written in everything."""

from dataclasses import replace
from pathlib import Path

import pytest

from converters.bert.family import Bert
from epmq_export.api import registry
from epmq_export.errors import RecipeError
from epmq_export.pipeline.export import export
from epmq_export.pipeline.progress import Stages
from epmq_export.pipeline.registry import Registry
from epmq_export.tensors.packed import Packed
from tests.tiny.bert import small_bert, small_packed


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    place = tmp_path_factory.mktemp("packed")
    return small_packed(place / "packed", small_bert(place / "model"))[0]


@pytest.fixture
def without_gguf() -> Registry:
    """The project's own, for which BERT has no GGUF."""
    return replace(
        registry(),
        open_family=lambda directory: replace(Bert.open(directory), runtimes={"onnx": "onnxruntime"}),
    )


def test_a_format_that_the_family_lacks_is_one_sentence_and_nothing_is_written(
    without_gguf: Registry, packed: Packed, tmp_path: Path
) -> None:
    with pytest.raises(
        RecipeError, match=r"^--format gguf: family bert cannot be written in it, expected onnx$"
    ):
        export(without_gguf, packed, tmp_path / "out", ["onnx", "gguf"], False, Stages())
    assert not (tmp_path / "out").exists()


def test_without_names_all_that_the_family_has_is_written(
    without_gguf: Registry, packed: Packed, tmp_path: Path
) -> None:
    written = export(without_gguf, packed, tmp_path / "out", (), False, Stages())
    assert written == [tmp_path / "out" / "onnx" / "onnx" / "model_q4.onnx"] and written[0].is_file()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["onnx"]
    written = export(registry(), packed, tmp_path / "both", (), False, Stages())
    assert [str(path.relative_to(tmp_path / "both")) for path in written] == [
        "gguf/model.gguf",
        "onnx/onnx/model_q4.onnx",
    ]


def test_what_is_there_is_not_replaced_unasked(packed: Packed, tmp_path: Path) -> None:
    (path,) = export(registry(), packed, tmp_path, ["gguf"], False, Stages())
    before = path.read_bytes()
    with pytest.raises(RecipeError, match="gguf exists"):
        export(registry(), packed, tmp_path, ["onnx", "gguf"], False, Stages())
    assert [each.name for each in tmp_path.iterdir()] == ["gguf"]  # told before any of it is written
    (again,) = export(registry(), packed, tmp_path, ["gguf"], True, Stages())
    assert again.read_bytes() == before


def test_every_family_names_runtimes_that_there_are() -> None:
    assert {runtime.format for runtime in registry().runtimes.values()} == registry().formats.keys()
