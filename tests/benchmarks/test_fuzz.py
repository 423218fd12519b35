"""The benchmark that fuzzes readers: its targets without a fuzzer, its command with a stand-in for one."""

import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from benchmarks import PAGE
from benchmarks.machine import machine, today
from benchmarks.robustness import fuzz, fuzz_worker
from benchmarks.robustness.fuzz import MARKERS, Row, artifacts, main, note
from benchmarks.robustness.fuzz_targets import TARGETS
from benchmarks.robustness.fuzz_worker import Faults, reports, words
from benchmarks.tables import replaced
from epmq_export.errors import EpmqError, InputError

# Its file is written by torch's exporter, which takes long; tests/hostile/test_onnx.py changes one.
SLOW = {"ONNX"}
SAID = (
    "#2\tINITED cov: 40 ft: 41 corp: 1/1b exec/s: 0 rss: 90Mb\nDone 2 runs in 7 second(s)\n"
    "stat::number_of_executed_units: 2\nstat::peak_rss_mb: 91\n"
)


class StandIn(ModuleType):
    """Stand in for atheris, and for the process that it would run in: two broken files are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__("atheris")
        self._monkeypatch = monkeypatch
        monkeypatch.setitem(sys.modules, "atheris", self)
        pipes = {"DEVNULL": subprocess.DEVNULL, "PIPE": subprocess.PIPE, "STDOUT": subprocess.STDOUT}
        monkeypatch.setattr(fuzz, "subprocess", SimpleNamespace(run=self.run, **pipes))

    def run(self, command: list[str], **settings: Any) -> "subprocess.CompletedProcess[bytes]":
        self._monkeypatch.setattr(sys, "argv", command[2:])
        self._monkeypatch.setattr(sys, "stdout", sys.stdout)
        fuzz_worker.main()
        return subprocess.CompletedProcess(command, 0, SAID.encode())

    @staticmethod
    def instrument_imports(include: list[str]) -> AbstractContextManager[None]:
        return nullcontext()

    def Setup(self, arguments: list[str], read: Callable[[bytes], None]) -> None:
        assert "-max_total_time=7" in arguments and (Path(arguments[-1]) / "0").is_file(), arguments
        self.read = read

    def Fuzz(self) -> None:
        for content in (b"", b"\xff\t\0"):
            self.read(content)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.parametrize("name", sorted(set(TARGETS) - SLOW))
def test_a_target_reads_its_sound_files_and_refuses_broken_ones(
    name: str, work: Path, tmp_path: Path
) -> None:
    target = TARGETS[name](work, tmp_path)
    for seed in target.seeds:
        target.read(seed)
    for broken in (b"", target.seeds[0][:-1], b"\xff" + target.seeds[0], target.seeds[0][: len(seed) // 2]):
        try:
            target.read(broken)
        except EpmqError as error:
            assert str(error)


def test_a_fault_is_kept_once_for_each_place(tmp_path: Path) -> None:
    def read(content: bytes) -> None:
        if content == b"refused":
            raise InputError("it is refused")
        if content == b"panic":
            raise BaseException("of native code")
        int(content)

    one = Faults(tmp_path).guarded(read)
    for content in (b"1", b"refused", b"x", b"y", b"panic"):
        one(content)
    one = Faults(tmp_path).guarded(read)
    one(b"z")
    told = [path.read_text().splitlines()[0].split(" at ")[0] for path in reports(tmp_path)]
    assert told == ["ValueError", "BaseException"]
    assert (tmp_path / "fault-1").read_bytes() == b"x"


def test_a_reader_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    def read(content: bytes) -> None:
        while content:
            pass

    before = signal.getsignal(signal.SIGPROF)
    one = Faults(tmp_path, hang=0.05).guarded(read)
    one(b"x")
    one(b"")
    signal.signal(signal.SIGPROF, before)
    (report,) = reports(tmp_path)
    assert report.read_text().startswith("Hang at test_fuzz.py:")


def test_the_words_of_sound_files_are_a_dictionary() -> None:
    assert (
        words([b'{"hidden_size": 1}', b"hidden_size\x00general.name"]) == b'"hidden_size"\n"general.name"\n'
    )


def test_what_libfuzzer_says_is_counted() -> None:
    row = Row("recipe")
    died = "#9\tNEW    cov: 12 ft: 3 corp: 2/9b lim: 4 rss: 300Mb L: 1\n==1== ERROR: libFuzzer: timeout"
    assert note(row, died) == 0 and (row.executions, row.covered, row.peak) == (9, 12, 300)
    ended = "#20\tDONE   cov: 15 ft: 3\nDone 20 runs in 31 second(s)\nstat::number_of_executed_units: 20\n"
    assert note(row, f"{ended}stat::peak_rss_mb:  299\n") == 31
    assert (row.executions, row.covered, row.peak) == (29, 15, 300)


def test_the_command_writes_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin" / "atheris").mkdir(parents=True)
    StandIn(monkeypatch)
    work, asked = tmp_path / "work", ["--targets", "lines of texts", "--seconds", "7"]
    places = ["--work", str(work), "--atheris", str(tmp_path / "bin"), "--out", str(tmp_path)]
    try:
        main([*asked, *places])
    finally:
        logging.disable(logging.NOTSET)
    table = (tmp_path / "fuzz.md").read_text()
    assert "| lines of texts | 2 | 7 | 40 | 0 | 0 | 0 | 91 MB |" in table
    assert f"- lines of texts: {machine()}, {today()} (" in table
    assert artifacts(work / "lines-of-texts") == [] == reports(work / "lines-of-texts")


def test_faults_are_counted_by_kind() -> None:
    row = Row("GGUF", 9, crashes=["ValueError at a.py:1 in f"], hangs=["timeout-1"])
    assert row.faults == ["ValueError at a.py:1 in f", "timeout-1"]
    assert row.cells() == ("GGUF", "0", "9", "0", "1", "1", "0", "0 MB")


def test_without_a_fuzzer_the_command_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="found no atheris, expected it there: pip install --no-deps"):
        main(["--atheris", str(tmp_path), "--work", str(tmp_path)])


def test_the_page_has_the_place_of_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert "new content" in replaced(page, MARKERS, "new content", PAGE.name)
