"""A GGUF model in several files."""

import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from converters.bert.family import Bert
from converters.bert.kinds import KINDS
from epmq_export.errors import InputError, OutputError
from epmq_export.models.family import Export, Family
from epmq_export.models.format import PlannedTensor
from epmq_export.recipe.recipe import RecipeVerify
from epmq_export.tensors.ggml_types import F32
from epmq_export.tensors.gguf_file import GgufFile
from epmq_export.tensors.gguf_splits import GgufModel, split_paths
from epmq_export.tensors.packed import Packed
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from epmq_export.verification.verify import Written, verify
from formats.gguf.format import Gguf
from formats.gguf.placement import parts_of
from formats.inspect import describe
from tests.tiny.bert import small_bert, small_packed
from tests.tiny.gguf_edits import edited, value_at
from tests.tiny.packed_index import an_index

NAMES = [f"model-Q4_0-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
Model = tuple[Packed, Family, Path]


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Model:
    place = tmp_path_factory.mktemp("split")
    packed, family = small_packed(
        place / "packed", small_bert(place / "model"), index={"split_bytes": 25_000}
    )
    return packed, family, Gguf().write(packed, family, place)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("whole")
    packed, family = small_packed(place / "packed", small_bert(place / "model"))
    return Gguf().write(packed, family, place)


@pytest.fixture
def copy(split: Model, tmp_path: Path) -> Path:
    for path in split_paths(split[2]):
        shutil.copyfile(path, tmp_path / path.name)
    return tmp_path / split[2].name


def test_it_lies_in_three_files_that_llama_cpp_finds(split: Model, whole: Path) -> None:
    packed, family, path = split
    assert (
        [each.name for each in split_paths(path)]
        == NAMES
        == [each.name for each in Gguf().open(path, family).files(family)]
    )
    assert (
        sorted(each.name for each in path.parent.glob("*.gguf")) == NAMES
        and Gguf().find(path.parent, family) == path
    )
    texts = ["the weather is good!", "café"]
    assert np.array_equal(LlamaCpp().outputs(path, texts), LlamaCpp().outputs(whole, texts))
    assert LlamaCpp().tokens(path, texts) == LlamaCpp().tokens(whole, texts)
    found = verify(
        [Written(path, Gguf(), [LlamaCpp()], packed)], family, RecipeVerify(), None, lambda _: None
    )
    assert found.broken == []
    (entry,) = found.files
    assert entry.passed and [other.path.name for other in entry.others] == NAMES[1:]
    assert entry.checks["codes"].facts["decoded_by_runtime"] == len(packed.grids)
    assert entry.notes["bytes"] == sum(each.stat().st_size for each in split_paths(path))


def test_the_metadata_stand_in_the_first_alone_as_gguf_py_has_them(split: Model, whole: Path) -> None:
    count = len(GgufFile.open(whole).tensors)
    for number, path in enumerate(split_paths(split[2])):
        fields = gguf.GGUFReader(path).fields
        assert {
            key: (fields[key].contents(), fields[key].types) for key in fields if key.startswith("split.")
        } == {
            "split.no": (number, [gguf.GGUFValueType.UINT16]),
            "split.count": (3, [gguf.GGUFValueType.UINT16]),
            "split.tensors.count": (count, [gguf.GGUFValueType.INT32]),
        }
        assert ("general.architecture" in fields) == (number == 0)
        assert not number or len([key for key in fields if not key.startswith("GGUF.")]) == 3
    assert list(GgufModel.open(split[2]).tensors) == list(GgufFile.open(whole).tensors)


def test_no_file_takes_more_than_is_asked_for_and_sizes_are_told_before(split: Model) -> None:
    packed, family, path = split
    sums = [sum(info.size for info in GgufFile.open(each).tensors.values()) for each in split_paths(path)]
    assert (
        max(sums)
        <= 25_000
        < sums[0]
        + GgufFile.open(split_paths(path)[1])
        .tensors[next(iter(GgufFile.open(split_paths(path)[1]).tensors))]
        .size
    )
    planned = {
        name: PlannedTensor(packed.shape(name), packed.grids.get(name) or packed.load(name).dtype)
        for name in packed.names()
    }
    sizes = Gguf().sizes(planned, family, packed.index)
    assert [*sizes] == NAMES
    for each in split_paths(path):
        assert sum(sizes[each.name].values()) == pytest.approx(each.stat().st_size, abs=300)
    layout = {name: (F32, (count,)) for name, count in (("a", 5), ("b", 1), ("c", 1))}
    assert parts_of(layout, an_index(split_bytes=4 * 2)) == {
        "model-F32-00001-of-00002.gguf": ["a"],
        "model-F32-00002-of-00002.gguf": ["b", "c"],
    }
    assert parts_of({"a": layout["a"]}, an_index(split_bytes=4 * 2)) == {"model-F32.gguf": ["a"]}


def test_described_by_its_first_file(split: Model, whole: Path) -> None:
    assert [(each.name, each.bytes) for each in describe(split[2]).tensors] == [
        (each.name, each.bytes) for each in describe(whole).tensors
    ]
    with pytest.raises(InputError, match="is file 2 of a model in 3, expected the first of them"):
        describe(split_paths(split[2])[1])


def test_half_of_it_is_nothing(split: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, family, _ = split
    asked = Packed.tensor

    def full(self: Packed, name: str) -> object:
        if "layer.1.output" in name:
            raise OSError(28, "No space left on device")
        return asked(self, name)

    monkeypatch.setattr(Packed, "tensor", full)
    with pytest.raises(OutputError, match="No space left"):
        Gguf().write(packed, family, tmp_path)
    assert not list(tmp_path.iterdir())


def number(key: str, value: int, which: int) -> Callable[[Path], None]:
    def forge(path: Path) -> None:
        place = split_paths(path)[which]
        code = struct.pack("<i" if key == "split.tensors.count" else "<H", value)
        edited(place, place, value_at(place, key), code)

    return forge


def gone(path: Path) -> None:
    split_paths(path)[2].unlink()


def same_twice(path: Path) -> None:
    _, second, third = split_paths(path)
    shutil.copyfile(second, third)
    edited(third, third, value_at(third, "split.no"), struct.pack("<H", 2))


def renamed(path: Path) -> None:
    split_paths(path)[1].rename(path.with_name("model-2.gguf"))


def cut(path: Path) -> None:
    place = split_paths(path)[1]
    place.write_bytes(place.read_bytes()[:-40])


def no_key(path: Path) -> None:
    place = split_paths(path)[1]
    content = place.read_bytes()
    place.write_bytes(content.replace(b"split.count", b"split.c0unt"))


@pytest.mark.parametrize(
    ("forge", "sentence"),
    [
        (number("split.no", 1, 0), "is file 2 of a model in 3, expected the first of them"),
        (number("split.no", 2, 1), "has split.no 2, split.count 3, split.tensors.count"),
        (
            number("split.count", 2, 0),
            (
                "says that it is the first of 2 files of a model, expected a name that ends in "
                "-00001-of-00002.gguf"
            ),
        ),
        (number("split.count", 65535, 0), "expected a name that ends in -00001-of-65535.gguf"),
        (number("split.tensors.count", 3, 0), "expected 1, 3 and 3 as model-Q4_0-00001-of-00003.gguf says"),
        (number("split.tensors.count", -1, 0), "key split.tensors.count is -1 (INT32), expected a number"),
        (gone, "cannot be read (No such file"),
        (renamed, "cannot be read (No such file"),
        (cut, "ends within tensor"),
        (same_twice, "stands in model-Q4_0-00002-of-00003.gguf too, expected it once"),
        (no_key, "key split.count is missing, expected a number as UINT16"),
    ],
)
def test_files_that_do_not_belong_together(
    copy: Path, split: Model, forge: Callable[[Path], None], sentence: str
) -> None:
    forge(copy)
    for read in (
        lambda: Gguf().open(copy, split[1]).differences(split[0]),
        lambda: list(Gguf().open(copy, split[1]).tensors()),
        lambda: describe(copy),
    ):
        with pytest.raises(InputError) as raised:
            read()
        assert sentence in str(raised.value) and "\n" not in str(raised.value)


def test_a_model_too_many(copy: Path, whole: Path, split: Model) -> None:
    shutil.copyfile(whole, copy.with_name("model.gguf"))
    with pytest.raises(
        InputError, match=r"has model-Q4_0-00001-of-00003\.gguf and model\.gguf, expected one model"
    ):
        Gguf().find(copy.parent, split[1])


def test_split_otherwise_than_the_recipe_says(copy: Path, whole: Path, split: Model, tmp_path: Path) -> None:
    packed, family = small_packed(
        tmp_path / "packed",
        small_bert(tmp_path / "model"),
        index={"split_bytes": 35_000},
    )
    found = Gguf().open(copy, family).differences(packed)
    assert "key split.count: found 3, expected 2" in found
    # A key of its own in another file than the first, which no runtime reads, is told too.
    place = split_paths(copy)[1]
    edited(place, place, place.read_bytes().index(b"split.no"), b"SPLIT.NO")
    with pytest.raises(InputError, match=r"key split\.no is missing"):
        Gguf().open(copy, split[1]).differences(split[0])


class InClipCpp(Bert):
    @property
    def exports(self) -> Mapping[str, Export]:
        return {"gguf": replace(super().exports["gguf"], runtimes=["clip.cpp"], splits=False)}


def test_clip_cpp_reads_no_splits(split: Model, tmp_path: Path) -> None:
    packed, family = split[0], InClipCpp.open(split[1].directory, KINDS["bert"])
    with pytest.raises(InputError, match=r"clip\.cpp reads no model in several files"):
        Gguf().write(packed, family, tmp_path)
