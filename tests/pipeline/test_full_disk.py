"""Commands whose disk has no more room, or takes nothing: each output is the old one, or the new one whole,
or not there, and one sentence names the place. What the system tells of the room left is not to be relied on
here, as under a quota.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

import epmq_export as epmq
from epmq_export.errors import OutputError
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.safetensors_file import SafetensorsFile
from tests.command_line.command import Result, tree
from tests.tiny.recipe_project import Project
from tests.tiny.small_disk import Disk, small_disk

FULL, READ_ONLY = "No space left on device", "Read-only file system"


@dataclass(frozen=True)
class Made:
    """A recipe, and what the commands make of it where nothing is in their way."""

    recipe: Path
    output: Path
    """It has `packed`, `gguf` and `onnx`."""

    merged: Path
    ran: Path
    """The output of a run of another recipe, with a report and its page."""


@pytest.fixture(scope="module")
def made(project: Project, ran: tuple[Path, Result], tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    recipe = project.one_task(folder / "recipe.yaml")
    epmq.export(epmq.calibrate(recipe, folder / "out" / "packed"), folder / "out")
    return Made(recipe, folder / "out", epmq.merge(recipe, folder / "merged"), ran[0])


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 40))
    with small_disk(tmp_path / "disk") as disk:
        yield disk


def size(directory: Path) -> int:
    return sum(-(-len(content) // 4096) * 4096 for content in tree(directory).values())


def told(action: Callable[[], object], place: Path, reason: str) -> None:
    """Require that an action ends in one sentence with the place and the reason, and exit code 3."""
    with pytest.raises(OutputError) as error:
        action()
    sentence = str(error.value)
    if reason == FULL:  # numpy says only how much it could write.
        sentence = sentence.replace("is the disk full?", FULL)
    assert str(place) in sentence and reason in sentence and "\n" not in sentence, sentence
    assert ".partial" not in sentence and error.value.exit_code == 3


@pytest.mark.parametrize("share", [0.1, 0.95])
def test_a_merge(made: Made, disk: Disk, share: float) -> None:
    out = disk.place / "out"
    out.mkdir()
    (out / "config.json").write_text("old")
    disk.resize(int(share * size(made.merged)))
    told(lambda: epmq.merge(made.recipe, out, overwrite=True), out, FULL)
    assert tree(disk.place) == {"out/config.json": b"old"}


@pytest.mark.parametrize("share", [0.5, 1.3], ids=["its blocks", "its result"])
def test_a_calibration_goes_on_from_what_is_whole(made: Made, disk: Disk, share: float) -> None:
    out, whole = disk.place / "out", made.output / "packed"
    disk.resize(int(share * size(whole)))
    told(lambda: epmq.calibrate(made.recipe, out), disk.place, FULL)
    assert [path.name for path in disk.place.iterdir()] == [".out.blocks"]
    for path in (disk.place / ".out.blocks").iterdir():
        assert path.suffix in (".json", ".safetensors")
        if path.suffix == ".safetensors":
            assert SafetensorsFile(path).names()
    disk.resize(1 << 24)
    epmq.calibrate(made.recipe, out, resume=True)
    assert tree(disk.place) == {f"out/{name}": content for name, content in tree(whole).items()}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
def test_an_export(made: Made, disk: Disk, share: float) -> None:
    whole = {kind: tree(made.output / kind) for kind in ("gguf", "onnx")}
    for kind in whole:
        (disk.place / "out" / kind).mkdir(parents=True)
        (disk.place / "out" / kind / "old").write_text("old")
    disk.resize(int(share * sum(size(made.output / kind) for kind in whole)))
    told(lambda: epmq.export(made.output / "packed", disk.place / "out", overwrite=True), disk.place, FULL)
    for kind, new in whole.items():
        assert tree(disk.place / "out" / kind) in ({"old": b"old"}, new)
    assert sorted(path.name for path in (disk.place / "out").iterdir()) == ["gguf", "onnx"]
    assert tree(disk.place / "out" / "onnx") == {"old": b"old"}


def test_a_report(made: Made, disk: Disk) -> None:
    disk.fill()
    before = tree(disk.place)
    told(lambda: epmq.verify(made.output, report=disk.place / "report.json"), disk.place, FULL)
    assert tree(disk.place) == before


def test_the_page_of_a_report(made: Made, disk: Disk) -> None:
    for name in ("report.json", "report.html"):
        shutil.copy(made.ran / name, disk.place)
    before = tree(disk.place)
    disk.fill()
    (disk.place / "filler").write_bytes(bytes(8192))  # Some of the page finds room.
    disk.fill()
    told(lambda: epmq.report(disk.place), disk.place / "report.html", FULL)
    (disk.place / "filler").unlink()
    assert tree(disk.place) == before


COMMANDS: dict[str, Callable[[Made, Path], object]] = {
    "run": lambda made, disk: epmq.run(made.recipe, disk / "out", overwrite=True),
    "merge": lambda made, disk: epmq.merge(made.recipe, disk / "out", overwrite=True),
    "calibrate": lambda made, disk: epmq.calibrate(made.recipe, disk / "out", overwrite=True),
    "export": lambda made, disk: epmq.export(made.output / "packed", disk / "out", overwrite=True),
    "verify": lambda made, disk: epmq.verify(made.output, report=disk / "new.json"),
    "report": lambda made, disk: epmq.report(disk),
    "init": lambda made, disk: epmq.init(made.merged, [made.merged], disk / "recipe.yaml"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_takes_nothing(made: Made, disk: Disk, command: str) -> None:
    (disk.place / "out").mkdir()
    (disk.place / "out" / "old").write_text("old")
    shutil.copy(made.ran / "report.json", disk.place)
    before = tree(disk.place)
    disk.forbid_writing()
    told(lambda: COMMANDS[command](made, disk.place), disk.place, READ_ONLY)
    assert tree(disk.place) == before


@pytest.mark.parametrize("read_only", [False, True], ids=["full", "read-only"])
@pytest.mark.parametrize("command", ["calibrate", "verify"])
def test_a_place_for_temporary_files(
    made: Made,
    disk: Disk,
    command: str,
    read_only: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A merge that is kept while it is read, and the twin of a file: neither makes the file a broken one."""
    monkeypatch.setattr(tempfile, "tempdir", str(disk.place))
    disk.fill()
    if read_only:
        disk.forbid_writing()
    jobs: dict[str, Callable[[], object]] = {
        "calibrate": lambda: epmq.calibrate(made.recipe, tmp_path / "out"),
        "verify": lambda: epmq.verify(made.output),
    }
    told(jobs[command], disk.place, READ_ONLY if read_only else FULL)
    assert not (tmp_path / "out").exists()
    assert Packed(made.output / "packed").names()
