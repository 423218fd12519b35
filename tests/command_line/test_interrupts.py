"""Runs that are interrupted: what they say, what they leave, and how they go on."""

import signal
import time
from pathlib import Path

import pytest

import cli
from epmq_export.errors import InputError
from tests.command_line.command import Result, Warm, tree
from tests.tiny.recipe_project import Project


def interrupted(epmq: Warm, command: str, project: Project, folder: Path, blocks: Path) -> Result:
    """Ctrl-C once the first block is finished."""
    process = epmq.start(command, project.recipe, "-o", "out", folder=folder)
    try:
        deadline = time.monotonic() + 300
        while not (blocks / "embeddings.safetensors").exists():
            assert process.running() and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        return process.result(timeout=60)
    finally:
        process.kill()


def test_an_interrupted_calibration_goes_on_to_the_same_bytes(
    project: Project, ran: tuple[Path, Result], epmq: Warm, tmp_path: Path
) -> None:
    blocks = tmp_path / ".out.blocks"
    result = interrupted(epmq, "calibrate", project, tmp_path, blocks)
    assert result.code == 130
    assert result.stdout == ""
    assert result.error.startswith("interrupted; nothing half-written was left")
    assert not (tmp_path / "out").exists() and not list(blocks.glob(".*"))
    kept = tree(blocks)
    assert "embeddings.safetensors" in kept and "encoder.layer.2.safetensors" not in kept

    other = project.variant(tmp_path / "other.yaml", calibration={"samples": 8})
    refused = epmq("calibrate", other, "-o", "out", "--resume", folder=tmp_path)
    assert refused.code == 2 and "the interrupted run had another recipe" in refused.error
    assert tree(blocks) == kept

    finished = epmq("calibrate", project.recipe, "-o", "out", "--resume", folder=tmp_path)
    assert finished.code == 0, finished.stderr
    assert tree(tmp_path / "out") == tree(ran[0] / "packed")
    assert not blocks.exists()


def test_an_interrupted_run_leaves_its_blocks_alone(project: Project, epmq: Warm, tmp_path: Path) -> None:
    result = interrupted(epmq, "run", project, tmp_path, tmp_path / "out" / ".packed.blocks")
    assert result.code == 130 and len(result.stderr.splitlines()) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".packed.blocks"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("could not determine the shape"),
        InputError("w.safetensors: cannot be read"),
        SystemExit(130),
    ],
)
def test_an_interrupt_is_told_as_one_whatever_a_library_makes_of_it(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def app() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error from None

    monkeypatch.setattr(cli, "app", app)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as exit:
            cli.main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert exit.value.code == 130
    assert capsys.readouterr().err.startswith("error: interrupted; nothing half-written was left")
