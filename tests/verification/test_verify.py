"""What a verify reads, holds and tells: each file once, one model at a time, a record for each runtime."""

import json
import shutil
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import onnx
import pytest
from onnx import ModelProto

import formats.onnx.written
from converters import open_family
from converters.bert.family import Bert
from converters.bert.kinds import KINDS
from epmq_export.models.family import Export, Family
from epmq_export.models.specs import OnnxExport
from epmq_export.recipe.recipe import RecipeVerify
from epmq_export.tensors.gguf_file import GgufFile
from epmq_export.tensors.packed import Packed
from epmq_export.verification.report import SCHEMA
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from epmq_export.verification.verdict import CHECKS, Verdict
from epmq_export.verification.verify import Written, verify
from formats.gguf.format import Gguf
from formats.onnx.format import OnnxQdq
from formats.onnx.read import read_model
from tests.tiny.bert import small_bert, small_packed


class Twice(Bert):
    """A family that is exported as two models, which are alike."""

    @property
    def exports(self) -> Mapping[str, Export]:
        found = super().exports
        export = found["onnx"]
        assert isinstance(export, OnnxExport)
        (spec,) = export.specs().values()
        two = replace(export, specs=lambda: {"model": spec, "model_again": spec}, computed=lambda: self)
        return {**found, "onnx": two}


def twice(packed: Packed) -> Twice:
    return Twice.open(packed.directory, KINDS["bert"])


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    place = tmp_path_factory.mktemp("packed")
    return small_packed(place / "packed", small_bert(place / "model"))[0]


@pytest.fixture(scope="module")
def two(packed: Packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return OnnxQdq().write(packed, twice(packed), tmp_path_factory.mktemp("onnx"))


@pytest.fixture
def copy(two: Path, tmp_path: Path) -> Path:
    shutil.copytree(two.parent.parent, tmp_path / "onnx")
    return tmp_path / "onnx" / two.relative_to(two.parent.parent)


def judged(written: Written, family: Family) -> Verdict:
    return verify([written], family, RecipeVerify(), None, lambda _: None)


class Held:
    """A model that can be asked whether it is still there, as a protobuf message cannot."""

    def __init__(self, model: ModelProto) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[int]]:
    """Return two lists that fill: the names of the models that are read, and how many were there already."""
    read: list[str] = []
    there: list[int] = []
    living: list[weakref.ref[Held]] = []

    def count(path: Path) -> Held:
        read.append(path.name)
        there.append(sum(reference() is not None for reference in living))
        living.append(weakref.ref(held := Held(read_model(path))))
        return held

    monkeypatch.setattr(formats.onnx.written, "read_model", count)
    return read, there


NAMES = ["model_q4.onnx", "model_again_q4.onnx"]


def test_each_onnx_model_is_read_once_and_one_is_in_memory(
    two: Path, packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, there = counted(monkeypatch)
    verdict = judged(Written(two, OnnxQdq(), [OnnxRuntime()], packed), twice(packed))
    assert verdict.passed, verdict.broken
    assert read == NAMES and there == [0, 0]
    assert verdict.files[0].notes == {"linears": 24, "fused": 24}


@pytest.mark.parametrize("first", ["differences", "notes", "tensors"])
def test_whatever_is_asked_first_one_model_is_in_memory(
    first: str, two: Path, packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, there = counted(monkeypatch)
    model = OnnxQdq().open(two, twice(packed))
    assert read == []  # nothing is read before it is asked for
    asked: dict[str, Callable[[], object]] = {
        "differences": lambda: model.differences(packed),
        "notes": model.notes,
        "tensors": lambda: sum(1 for _ in model.tensors()),
    }
    asked.pop(first)()
    assert read == NAMES
    if first != "tensors":
        asked["tensors"]()  # which the skeletons have no more
    assert asked["notes" if first == "differences" else "differences"]() in ([], {"linears": 24})
    assert set(there) == {0} and read == (NAMES if first == "tensors" else NAMES * 2)


def test_a_model_whose_tensors_are_refused_is_not_read_again(
    copy: Path, packed: Packed, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(copy)
    next(item for item in model.metadata_props if item.key == "epmq.grids").value = "{"
    onnx.save(model, copy)
    read, there = counted(monkeypatch)
    verdict = judged(Written(copy, OnnxQdq(), [OnnxRuntime()], packed), twice(packed))
    assert [check.passed for check in verdict.files[0].checks.values()] == [False, False, True]
    assert read == NAMES and there == [0, 0]


def test_the_head_of_a_gguf_file_is_read_once(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = open_family(packed.directory)
    path = Gguf().write(packed, family, tmp_path)
    read: list[Path] = []
    opened = GgufFile.open.__func__  # type: ignore[attr-defined]

    def count(cls: type[GgufFile], path: Path) -> GgufFile:
        read.append(path)
        found: GgufFile = opened(cls, path)
        return found

    monkeypatch.setattr(GgufFile, "open", classmethod(count))
    verdict = judged(Written(path, Gguf(), [LlamaCpp()], packed), family)
    assert verdict.passed and read == [path]


def test_a_graph_that_the_runtime_refuses_is_a_broken_check_and_no_error(copy: Path, packed: Packed) -> None:
    """Every tensor is right, and the checker of onnx finds nothing; the sum of two numbers is made one of two
    truths.
    """
    model = onnx.load(copy)
    next(node for node in model.graph.node if node.op_type == "Add").op_type = "And"
    onnx.save(model, copy)
    verdict = judged(Written(copy, OnnxQdq(), [OnnxRuntime()], packed), twice(packed))
    (found,) = verdict.files
    assert found.checks["codes"].passed and not found.checks["graph"].passed and not verdict.passed
    assert any("ONNX Runtime refuses it" in sentence for sentence in verdict.broken)
    assert found.notes == {"linears": 24}


def test_a_verdict_tells_what_the_report_has(two: Path, packed: Packed) -> None:
    verdict = judged(Written(two, OnnxQdq(), [OnnxRuntime()], packed), twice(packed))
    (found,) = verdict.files
    entry = found.as_dict()
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.validate(entry, {**schema["properties"]["files"]["items"], "$defs": schema["$defs"]})
    assert [*entry] == [*schema["properties"]["files"]["items"]["required"]]
    assert tuple(entry["checks"]) == CHECKS and entry["checks"]["tasks"] is None
    assert entry["path"] == str(two) and [Path(other["path"]).name for other in entry["others"]] == NAMES[1:]
    assert found.passed and found.path == two and entry["bytes"] == two.stat().st_size
