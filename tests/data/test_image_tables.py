"""Images in tables and in data sets of the hub."""

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from epmq_export.data.images import read_pictures
from epmq_export.data.pictures import Pictures, decode
from epmq_export.data.request import DataRequest
from epmq_export.errors import InputError, MissingRuntime
from epmq_export.files import sha256
from tests.data.read_images import named, read
from tests.tiny.hub import Hub
from tests.tiny.image_files import png, put


def features(**of: Any) -> datasets.Features:
    return datasets.Features(of)


def dataset(labels: list[Any], kind: Any, image: str = "image", label: str = "label") -> datasets.Dataset:
    rows = {
        image: [{"bytes": png(index), "path": None} for index in range(len(labels))],
        label: labels,
        "id": list(range(len(labels))),
    }
    return datasets.Dataset.from_dict(
        rows, features=features(**{image: datasets.Image(), label: kind, "id": datasets.Value("int64")})
    )


def table(path: Path, *args: Any, **keys: Any) -> Path:
    """Write a table of images as the package datasets does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset(*args, **keys).to_parquet(str(path))
    return path


CLASSES = datasets.ClassLabel(names=["cat", "dog", "cow"])


def test_a_table_with_counted_classes(tmp_path: Path) -> None:
    path = table(tmp_path / "x.parquet", [2, 0, -1, None], CLASSES)
    found = read(path)
    assert (found.labels, found.names, found.counted) == ([2, 0, -1, -1], ["cat", "dog", "cow"], True)
    assert (found.samples[1].pixels() == decode(png(1), "")).all()
    assert found.samples[1].place == f"{path}: row 1"
    assert len({picture.digest for picture in found.samples}) == 4


def test_columns_of_tables(tmp_path: Path) -> None:
    other = table(tmp_path / "x.parquet", [1], CLASSES, image="img", label="species")
    assert named(read(other)) == named(read(other, images="img", labels="species")) == ["dog"]
    assert read(other, labels="id").labels == [0] and read(other, labels="id").names is None
    texts = read(table(tmp_path / "y.parquet", ["dog", "cat", None], datasets.Value("string")))
    assert (texts.labels, texts.names, texts.counted) == ([1, 0, -1], ["cat", "dog"], False)


def test_a_table_of_plain_bytes(tmp_path: Path) -> None:
    rows = {"image": pa.array([png(0), None], pa.binary()), "label": pa.array(["a", "b"]).dictionary_encode()}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    found = read(tmp_path / "x.parquet")
    assert named(found) == ["a", "b"] and found.samples[0].pixels().shape == (3, 5, 3)
    with pytest.raises(InputError, match=r"x\.parquet: row 1: found no bytes, expected an image"):
        found.samples[1].pixels()


def test_a_directory_as_the_hub_has_it(tmp_path: Path) -> None:
    table(tmp_path / "data" / "train-00000-of-00002.parquet", [0, 1], CLASSES)
    table(tmp_path / "data" / "train-00001-of-00002-0a1b2c.parquet", [2], CLASSES)
    table(tmp_path / "data" / "test-00000-of-00001.parquet", [1], CLASSES)
    put(tmp_path / "README.md", b"---\n")
    assert named(read(tmp_path)) == ["cat", "dog", "cow"]
    assert named(read(tmp_path, "test")) == named(read(tmp_path, split="test")) == ["dog"]
    with pytest.raises(
        InputError,
        match=r": found the splits test, train and not 'tran', expected the key split to name one of them, "
        r"did you mean 'train'\?$",
    ):
        read(tmp_path, split="tran")
    table(tmp_path / "other" / "train-00000-of-00001.parquet", [2], CLASSES)
    with pytest.raises(
        InputError,
        match=r": found the split 'train' in .*data and in .*other, expected the path of one of them$",
    ):
        read(tmp_path)
    assert named(read(tmp_path / "other")) == ["cow"]


def test_other_names_of_parquet_files(tmp_path: Path) -> None:
    table(tmp_path / "a" / "part1.parquet", [0], CLASSES)
    table(tmp_path / "a" / "part2.parquet", [1], CLASSES)
    assert named(read(tmp_path / "a")) == ["cat", "dog"]
    with pytest.raises(InputError, match=r": found no splits and not 'test'"):
        read(tmp_path / "a", split="test")
    table(tmp_path / "b" / "test.parquet", [0], CLASSES)
    table(tmp_path / "b" / "train" / "0.parquet", [1], CLASSES)
    assert named(read(tmp_path / "b", "test")) == ["cat"] and named(read(tmp_path / "b")) == ["dog"]
    table(tmp_path / "a" / "part3.parquet", [0], datasets.ClassLabel(names=["dog", "cat"]))
    with pytest.raises(
        InputError,
        match=r"part3\.parquet: found other columns or classes than in .*part1\.parquet, expected the same "
        r"in all files of a split$",
    ):
        read(tmp_path / "a")


def _plain(path: Path, metadata: object = None, **columns: Any) -> None:
    made = pa.table({name: pa.array(values) for name, values in columns.items()})
    pq.write_table(made.replace_schema_metadata({"huggingface": json.dumps(metadata)}), path)


PICTURE = [png(0)]


BAD_TABLES: list[tuple[dict[str, Any], object, dict[str, str], str]] = [
    (
        {"text": ["a"]},
        None,
        {},
        ": found no column 'image', but text, expected encoded images: bytes, or a structure with bytes "
        "(the key images names the column)",
    ),
    (
        {"image": [[1, 2]]},
        None,
        {},
        ": found the column image of list<element: int64>, expected encoded images: bytes, or a structure "
        "with bytes (the key "
        "images names the column)",
    ),
    (
        {"image": PICTURE},
        None,
        {"images": "imgae"},
        ": found no column 'imgae', but image, expected encoded images: bytes, or a structure with bytes "
        "(the key "
        "images names the column), did you mean 'image'?",
    ),
    (
        {"a": PICTURE, "b": PICTURE},
        None,
        {},
        ": found no column 'image', but a, b, expected encoded images: bytes, or a structure with bytes "
        "(the key images "
        "names the column)",
    ),
    (
        {"image": PICTURE, "label": [1]},
        None,
        {"labels": "lable"},
        ": found no column 'lable', expected one of image, label, did you mean 'label'?",
    ),
    (
        {"image": PICTURE, "label": [0.5]},
        None,
        {},
        ": found the column label of double, expected whole numbers or texts",
    ),
    (
        {"image": PICTURE[:0]},
        None,
        {"images": "image"},
        ": found the column image of null, expected encoded images: bytes, or a structure with bytes (the "
        "key "
        "images names the column)",
    ),
    (
        {"image": PICTURE, "label": [1]},
        {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "a"]}}}},
        {},
        ": label: found the class 'a' twice, expected distinct names",
    ),
    (
        {"image": PICTURE, "label": [1]},
        {"info": {"features": {"label": {"_type": "ClassLabel", "names": 3}}}},
        {},
        ": found names of the classes of label that are no list of texts",
    ),
    (
        {"image": PICTURE, "label": ["a"]},
        {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a"]}}}},
        {},
        ": found texts in the column label, expected whole numbers, since its classes are counted",
    ),
]


@pytest.mark.parametrize(("columns", "metadata", "keys", "sentence"), BAD_TABLES, ids=range(len(BAD_TABLES)))
def test_tables_that_are_wrong(
    tmp_path: Path, columns: dict[str, Any], metadata: object, keys: dict[str, str], sentence: str
) -> None:
    path = tmp_path / "x.parquet"
    _plain(path, metadata, **columns)
    with pytest.raises(InputError) as caught:
        read(path, **keys)
    assert str(caught.value).replace("list<item: ", "list<element: ") == f"{path}{sentence}"


@pytest.mark.parametrize(
    "metadata", [None, [], {"info": 3}, {"info": {"features": [1]}}, {"info": {"features": {"label": 3}}}]
)
def test_metadata_that_is_something_else_names_no_classes(tmp_path: Path, metadata: object) -> None:
    _plain(tmp_path / "x.parquet", metadata, image=PICTURE, label=[4])
    found = read(tmp_path / "x.parquet")
    assert (found.labels, found.names, found.counted) == ([4], None, True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-9],
        lambda raw: b"PAR1",
        lambda raw: b"",
        lambda raw: raw[:4] + bytes(len(raw) - 12) + raw[-8:],
    ],
)
def test_files_that_are_no_table(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = table(tmp_path / "x.parquet", [0], CLASSES)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"x\.parquet: not readable as \.parquet \(.+\)$"):
        read(path)


def of_hub(default: str = "train", **keys: str) -> Pictures:
    return read_pictures(DataRequest(**keys), default)


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, tmp_path, dataset([1, 0], CLASSES, image="img"))
    found = of_hub(dataset="org/pets")
    assert named(found) == ["dog", "cat"] and found.counted
    assert [picture.place for picture in found.samples] == [
        "dataset org/pets train: row 0",
        "dataset org/pets train: row 1",
    ]
    assert (found.samples[1].pixels() == decode(png(1), "")).all()
    (name, digest), *others = found.data.items()
    assert (name, len(digest), others) == ("dataset org/pets train", 64, [])
    # The same samples have the same digest, whatever they are called; others have another.
    assert [*of_hub("test", dataset="org/pets@v1", config="small").data.items()] == [
        ("dataset org/pets@v1 small test", digest)
    ]
    assert hub.calls == [("org/pets", None, "train", None), ("org/pets", "small", "test", "v1")]
    hub.found = dataset([1, 1], CLASSES)
    assert [*of_hub(dataset="org/pets", split="train[:2]").data.items()] != [
        ("dataset org/pets train[:2]", digest)
    ]
    hub.found = hub.found.select([1])  # by indices, not as the rows lie
    assert of_hub(dataset="org/pets").samples[0].digest == found.samples[1].digest


def test_images_of_the_hub_that_are_files_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(put(tmp_path / f"{i}.png", png(i))) for i in range(2)] + [str(tmp_path / "gone.png")]
    made = datasets.Dataset.from_dict(
        {"image": [{"path": path, "bytes": None} for path in paths]},
        features=features(image=datasets.Image()),
    )
    Hub(monkeypatch, tmp_path, made)
    found = of_hub(dataset="org/pets")
    assert found.labels is None and found.samples[0].digest == sha256(Path(paths[0]))
    assert (found.samples[1].pixels() == decode(png(1), "")).all()
    with pytest.raises(
        InputError, match=r"^dataset org/pets train: row 2: found no bytes, expected an image"
    ):
        found.samples[2].pixels()


def test_what_the_hub_refuses_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, tmp_path, ValueError('Unknown split "test". Should be one of ["train"].\nmore\n'))
    with pytest.raises(
        InputError,
        match=r'^dataset org/pets test: cannot be loaded \(Unknown split "test"\. Should be one of '
        r'\["train"\]\.\)$',
    ):
        of_hub("test", dataset="org/pets")
    hub.found = ConnectionError()
    with pytest.raises(InputError, match=r"^dataset org/pets train: cannot be loaded \(ConnectionError\)$"):
        of_hub(dataset="org/pets")
    hub.found = dataset([], CLASSES)
    with pytest.raises(
        InputError, match=r"^dataset org/pets train: found no row, expected at least one image$"
    ):
        of_hub(dataset="org/pets")
    hub.found = dataset([0], CLASSES)
    with pytest.raises(
        InputError, match=r"^dataset org/pets train: found no column 'x', expected one of image, label, id$"
    ):
        of_hub(dataset="org/pets", labels="x")
    (tmp_path / "org" / "pets").mkdir(parents=True)
    with pytest.raises(
        InputError,
        match=r"^dataset org/pets train: found a directory 'org/pets' where the command runs, which the "
        r"library would take for it",
    ):
        of_hub(dataset="org/pets")


@pytest.mark.parametrize("missing", ["pyarrow", "datasets"])
def test_what_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    real: Any = builtins.__import__

    def without(name: str, *args: Any, **keys: Any) -> Any:
        if name.partition(".")[0] == missing:
            raise ImportError(f"No module named {missing!r}", name=missing)
        return real(name, *args, **keys)

    path = table(tmp_path / "x.parquet", [0], CLASSES)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MissingRuntime, match=rf"needs the package {missing} \(.*\): pip install 'epmq-export\[datasets\]'$"
    ) as caught:
        read(path) if missing == "pyarrow" else of_hub(dataset="org/pets")
    assert caught.value.exit_code == 4
