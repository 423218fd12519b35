"""The chain of stages with families that cannot be written in everything."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from converters.bert.family import Bert
from converters.bert.kinds import KINDS
from epmq_export.errors import RecipeError
from epmq_export.installed import registry
from epmq_export.models.family import Export
from epmq_export.pipeline.export import export
from epmq_export.pipeline.progress import Stages
from epmq_export.pipeline.registry import Registry
from epmq_export.pipeline.verify import verify
from epmq_export.tensors.packed import Packed
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from tests.tiny.bert import small_bert, small_packed


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    place = tmp_path_factory.mktemp("packed")
    return small_packed(place / "packed", small_bert(place / "model"))[0]


class Another(LlamaCpp):
    name = "another"


class TwoRuntimes(Bert):
    @property
    def exports(self) -> Mapping[str, Export]:
        found = super().exports
        return {**found, "gguf": replace(found["gguf"], runtimes=["llama.cpp", "another"])}


class WithoutGguf(Bert):
    @property
    def exports(self) -> Mapping[str, Export]:
        return {"onnx": super().exports["onnx"]}


@pytest.fixture
def without_gguf() -> Registry:
    """Return the project's own, for which BERT has no GGUF."""
    return replace(registry(), open_family=partial(WithoutGguf.open, kind=KINDS["bert"]))


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
        "gguf/model-Q4_0.gguf",
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


def test_every_runtime_of_a_format_verifies_its_files(packed: Packed, tmp_path: Path) -> None:
    """A second runtime of GGUF is run beside the first, and its checks stand beside the first's."""
    runtimes = {**registry().runtimes, "another": Another()}
    both = replace(registry(), open_family=partial(TwoRuntimes.open, kind=KINDS["bert"]), runtimes=runtimes)
    shutil.copytree(packed.directory, tmp_path / "packed")
    export(both, Packed(tmp_path / "packed"), tmp_path, ["gguf"], False, Stages())
    verdict = verify(both, tmp_path, ["gguf"], None, None, Stages())
    assert [file.runtime for file in verdict.files] == ["llama.cpp", "another"]
    assert all(file.checks["graph"].passed for file in verdict.files)


class Client(OnnxRuntime):
    name = "sentence-transformers"

    def version(self) -> str:
        return "1.5"


def test_clients_run_the_files_where_the_recipe_asks_for_them(packed: Packed, tmp_path: Path) -> None:
    known = replace(registry(), runtimes={**registry().runtimes, Client.name: Client()})
    family = registry().open_family(packed.directory)
    assert family.exports["onnx"].clients == ()  # Without modules.json it is no model of that library.
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    shutil.copytree(packed.directory, tmp_path / "packed")
    (tmp_path / "packed" / "modules.json").write_text(json.dumps(modules))
    index = json.loads((tmp_path / "packed" / "packed.json").read_text())
    export(known, Packed(tmp_path / "packed"), tmp_path, ["onnx"], False, Stages())
    for asked, expected in (([], ["onnxruntime"]), ([Client.name], ["onnxruntime", Client.name])):
        index["recipe"] = {"verify": {"clients": asked}}
        (tmp_path / "packed" / "packed.json").write_text(json.dumps(index))
        verdict = verify(known, tmp_path, ["onnx"], None, None, Stages())
        assert [file.runtime for file in verdict.files] == expected
        assert verdict.files[-1].checks["graph"].passed
