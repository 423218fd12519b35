"""How many processors are there for this process, and what its libraries are told of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from epmq_export.threads import asked, available, quota, take
from tests import ROOT

HERE = len(os.sched_getaffinity(0))


def group(root: Path, files: dict[str, str], own: str) -> tuple[Path, Path]:
    """Write files of control groups below `root`, and the one that names a process's own."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    (root / "own").write_text(f"{own}\n")
    return root, root / "own"


@pytest.mark.parametrize(
    ("files", "own", "expected"),
    [
        ({"cpu.max": "150000 100000"}, "0::/", 1.5),
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({}, "0::/", None),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, "0::/a/b", 2.0),
        # A container that does not see the groups above it.
        ({"cpu.max": "50000 100000"}, "0::/docker/0123", 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "4:cpu,cpuacct:/", None),
        ({"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"}, "4:cpu:/x\n0::/", 3.0),
        ({"cpu.max": "nonsense"}, "0::/", None),
    ],
)
def test_the_share_of_a_container(
    tmp_path: Path, files: dict[str, str], own: str, expected: float | None
) -> None:
    assert quota(*group(tmp_path, files, own)) == expected


def test_no_groups_are_no_bound(tmp_path: Path) -> None:
    assert quota(tmp_path, tmp_path / "own") is None


@pytest.mark.parametrize(("share", "expected"), [(None, HERE), (0.5, 1), (1.9, 1), (1000.0, HERE)])
def test_a_part_of_a_processor_is_none(
    monkeypatch: pytest.MonkeyPatch, share: float | None, expected: int
) -> None:
    monkeypatch.setattr("epmq_export.threads.quota", lambda: share)
    assert available() == expected


@pytest.mark.parametrize(
    ("threads", "before", "most", "after"),
    [
        (None, {}, 2, {}),
        (None, {"OMP_NUM_THREADS": "1"}, 2, {"OMP_NUM_THREADS": "1"}),
        (
            None,
            {"OMP_NUM_THREADS": "8", "MKL_NUM_THREADS": "2"},
            1,
            {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        ),
        (None, {}, 1, {"OMP_NUM_THREADS": "1"}),
        (None, {"OMP_NUM_THREADS": "4,2"}, 2, {"OMP_NUM_THREADS": "4,2"}),
        (1, {"OMP_NUM_THREADS": "2"}, 2, {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}),
        (9, {}, 2, {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}),
    ],
)
def test_what_the_libraries_are_told(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    threads: int | None,
    before: dict[str, str],
    most: int,
    after: dict[str, str],
) -> None:
    """On a machine of two cores, of which the process may use `most`."""
    environment = dict(before)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr("epmq_export.threads.available", lambda: most)
    monkeypatch.setattr("epmq_export.threads._allowed", lambda: 2)
    take(threads)
    assert environment == {**after, "OMP_WAIT_POLICY": "passive"}
    told = ["--threads 9: this process may use 2 processors, and takes 2"] if threads == 9 else []
    assert [record.message for record in caplog.records] == told
    number = after.get("OMP_NUM_THREADS", "")
    assert asked() == (int(number) if number.isdigit() else most)


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_who_says_how_to_wait_is_followed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    environment = {name: "1"}
    monkeypatch.setattr(os, "environ", environment)
    take(None)
    assert environment.pop(name) == "1" and "OMP_WAIT_POLICY" not in environment


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process to cores")
@pytest.mark.parametrize(
    ("arguments", "cores", "expected"), [([], 1, 1), (["--threads", "1"], HERE, 1), ([], HERE, HERE)]
)
def test_torch_takes_what_the_command_takes(
    tmp_path: Path, arguments: list[str], cores: int, expected: int
) -> None:
    """A process of its own, which says how many threads torch has when its command has ended."""
    (tmp_path / "recipe.yaml").write_text("base_model: here\n")
    given = ["merge", str(tmp_path / "recipe.yaml"), "-o", str(tmp_path / "out"), *arguments]
    program = (
        f"import os, sys; sys.argv = ['epmq', *{given!r}]\n"
        f"os.sched_setaffinity(0, [*os.sched_getaffinity(0)][:{cores}])\n"
        "import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "import torch; print(torch.get_num_threads(), os.environ['OMP_WAIT_POLICY'])"
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "MKL_"))}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, env=kept
    )
    assert done.stdout.splitlines()[-1] == f"{expected} passive"
