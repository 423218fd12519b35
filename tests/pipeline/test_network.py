"""Nothing is asked of a network unless a recipe names something on the hub."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import epmq_export as epmq
from tests.command_line.command import ENVIRONMENT, Result
from tests.tiny.recipe_project import Project


class Asked(BaseException):
    """A network was asked. No library takes it for an error that it can go on from."""


_cut_off = [False]


def _refuse(event: str, arguments: tuple[object, ...]) -> None:
    if not _cut_off[0]:
        return
    if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(arguments[1], tuple)):
        raise Asked(f"{event}: {arguments}")


@pytest.fixture
def no_network() -> Iterator[None]:
    """Refuse every connection and every look-up of a name. What Python is told to audit, it audits until it
    ends, so the hook is there once and heeds a switch.
    """
    sys.addaudithook(_refuse)
    _cut_off[0] = True
    yield
    _cut_off[0] = False


@pytest.mark.usefixtures("no_network")
def test_a_recipe_of_local_files_asks_no_network(project: Project, tmp_path: Path) -> None:
    with pytest.raises(Asked):
        socket.create_connection(("huggingface.co", 443), timeout=1)
    recipe = project.one_task(tmp_path / "recipe.yaml", evaluation=None, labels=None)
    assert epmq.forecast(recipe).family == "bert"
    merged = epmq.merge(recipe, tmp_path / "merged")
    packed = epmq.calibrate(recipe, tmp_path / "packed")
    (file,) = epmq.export(packed, tmp_path / "out", formats=["gguf"])
    for place in (merged, packed.directory, file):
        assert epmq.inspect(place).tensors


def test_a_whole_run_and_its_runtimes_ask_no_network(ran: tuple[Path, Result]) -> None:
    ask = "import socket; socket.create_connection(('huggingface.co', 443), timeout=1)"
    child = f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {ask!r}]).returncode)"
    for program in (ask, child):
        refused = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True)
        assert refused.returncode == 99 and b"a network was asked for 'huggingface.co'" in refused.stderr
    # Commands that the tests run are cut off in this way, and this one did all that there is to do.
    output, result = ran
    assert result.code == 0 and (output / "report.html").exists()
