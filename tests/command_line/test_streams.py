"""The commands in pipes, in any locale, with closed or full streams, and with names that look like markup."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import ROOT
from tests.command_line.command import ASCII, ENVIRONMENT, Result, Warm
from tests.tiny.recipe_project import Project

BASH = shutil.which("bash") or "bash"
COMMAND = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'cli.py'))}"
LOCALES = {
    "ascii": ASCII,
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "latin-1": {"PYTHONIOENCODING": "latin-1"},
    "strict": {"PYTHONIOENCODING": "ascii:strict"},
}
COMMANDS = ["inspect MODEL", "inspect --json MODEL", "--help", "--version"]


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash, in which `epmq` is the command."""
    script = f'epmq() {{ {COMMAND} "$@"; }}\n{line}'
    return subprocess.run(
        [BASH, "-c", script],
        cwd=folder,
        env={**ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def model(project: Project) -> str:
    return shlex.quote(str(project.directory / "base"))


def named(command: str, project: Project) -> str:
    """Return a command with its model and its recipe."""
    place = shlex.quote(str(project.directory / "base"))
    return command.replace("MODEL", place).replace("RECIPE", shlex.quote(str(project.recipe)))


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize("command", ["--help", "inspect MODEL"])
def test_every_locale_can_write_it(command: str, locale: str, project: Project, tmp_path: Path) -> None:
    done = shell(f"epmq {named(command, project)}", tmp_path, **LOCALES[locale])
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr and b"\\u" not in done.stdout and b"\\x" not in done.stdout


# Where the streams are what Python makes of such a locale, the others need no process from nothing.


def test_ascii_can_write_a_forecast(project: Project, epmq: Warm, tmp_path: Path) -> None:
    done = epmq("run", "--dry-run", project.recipe, folder=tmp_path, encoding="ascii")
    assert done.code == 0 and done.stdout.isascii(), done.stderr
    assert "Traceback" not in done.stderr and "\\u" not in done.stdout and "\\x" not in done.stdout


def test_a_verdict_is_not_a_matter_of_the_locale(
    ran: tuple[Path, Result], epmq: Warm, tmp_path: Path
) -> None:
    """A tick that cannot be written must not end as "fails verification" does."""
    done = epmq("verify", ran[0], folder=tmp_path, encoding="ascii")
    assert done.code == 0, done.stderr
    assert "ok equal" in done.stdout and "verdict: pass" in done.stdout.splitlines()


def test_json_is_ascii_without_colours(project: Project, epmq: Warm, tmp_path: Path) -> None:
    done = shell(
        f"epmq {named('inspect --json MODEL', project)}", tmp_path, FORCE_COLOR="1", COLUMNS="20", **ASCII
    )
    assert done.returncode == 0, done.stderr
    asked = ("run", "--dry-run", "--json", project.recipe)
    forecast = epmq(*asked, folder=tmp_path, encoding="ascii", FORCE_COLOR="1", COLUMNS="20")
    assert forecast.code == 0, forecast.stderr
    for said in (done.stdout.decode(), forecast.stdout):
        assert said.isascii() and "\x1b" not in said
        json.loads(said)


def test_scores_as_json_are_ascii_without_colours(
    ran: tuple[Path, Result], project: Project, epmq: Warm, tmp_path: Path
) -> None:
    content = yaml.safe_load(project.one_task(tmp_path / "recipe.yaml").read_text(encoding="utf-8"))
    (task,) = content["tasks"].values()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**content, "tasks": {"Stimmung ü 日本": task}}), encoding="utf-8")
    asked = ("evaluate", project.directory / "base", "--recipe", recipe, "--json")
    done = epmq(*asked, folder=tmp_path, FORCE_COLOR="1")
    assert done.code == 0, done.stderr
    assert done.stdout.isascii() and "\x1b" not in done.stdout
    assert "Stimmung ü 日本" in done.json["model"]


def test_no_color_wins(model: str, tmp_path: Path) -> None:
    line = f"epmq inspect {model}"
    assert b"\x1b" in shell(line, tmp_path, FORCE_COLOR="1").stdout
    assert b"\x1b" not in shell(line, tmp_path, FORCE_COLOR="1", NO_COLOR="1").stdout


def test_a_forced_colour_makes_no_terminal(project: Project, epmq: Warm, tmp_path: Path) -> None:
    """A log in CI, where colours are often forced, gets lines and no bar that moves."""
    done = epmq("merge", project.recipe, "-o", "out", folder=tmp_path, FORCE_COLOR="1")
    assert done.code == 0, done.stderr
    assert "merge: " in done.stderr and "\x1b[?25l" not in done.stderr and "\r" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_is_gone_is_no_failure(command: str, project: Project, tmp_path: Path) -> None:
    line = f"set +e; epmq {named(command, project)} | true; exit ${{PIPESTATUS[0]}}"
    done = shell(line, tmp_path)
    assert done.returncode in (0, 141), done.stderr  # a little may be written before the reader goes
    assert done.stderr == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("command", COMMANDS)
def test_results_that_cannot_be_written_are_told(command: str, project: Project, tmp_path: Path) -> None:
    done = shell(f"epmq {named(command, project)} > /dev/full", tmp_path)
    assert done.returncode == 3
    assert done.stderr.decode() == "error: standard output: cannot be written (No space left on device)\n"


@pytest.mark.parametrize("closed", [(1,), (0, 1, 2)])
def test_closed_streams_lead_nowhere(
    closed: tuple[int, ...], model: str, project: Project, epmq: Warm, tmp_path: Path
) -> None:
    """Run a command that bash starts, and one that writes files, which could get the numbers of streams."""
    done = shell(f"epmq inspect {model} {' '.join(f'{number}>&-' for number in closed)}", tmp_path)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    merged = epmq("merge", project.recipe, "-o", "out", folder=tmp_path, closed=closed)
    assert merged.code == 0 and "Traceback" not in merged.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_log_that_nobody_takes_ends_no_job(project: Project, epmq: Warm, tmp_path: Path) -> None:
    done = epmq("-v", "merge", project.recipe, "-o", "out", folder=tmp_path, stderr=Path("/dev/full"))
    assert (done.code, done.stdout) == (0, "out\n")


ODD = ["[v2]", "[bold]x", "x[/y]", ":smile:", "aus gabe 日本", "a" * 200, "%s {0} \\n", "-dash"]


@pytest.mark.parametrize("name", ODD)
def test_a_path_is_printed_as_it_is(name: str, project: Project, epmq: Warm, tmp_path: Path) -> None:
    place = f"runs/{'long' * 20}/{name}"
    done = epmq("merge", project.recipe, "-o", place, folder=tmp_path)
    assert (done.code, done.stdout) == (0, f"{place}\n")
    assert (tmp_path / place / "model.safetensors").exists()
    gone = epmq("inspect", f"{place}/nosuch", folder=tmp_path)
    assert gone.error == f"{place}/nosuch: no such file or directory"


def test_bytes_that_are_no_text_are_printed_as_they_are(project: Project, epmq: Warm, tmp_path: Path) -> None:
    raw = os.fsdecode(b"out-\xff\xfe")
    try:
        (tmp_path / raw).mkdir()
    except OSError:
        pytest.skip("the file system takes only UTF-8")
    done = epmq("merge", project.recipe, "-o", raw, folder=tmp_path)
    assert (done.code, done.stdout) == (0, f"{raw}\n"), done.stderr


def test_names_of_tasks_are_no_markup(
    ran: tuple[Path, Result], project: Project, epmq: Warm, tmp_path: Path
) -> None:
    names = ["[red]mood[/red]", "x[/y]", ":smile: \x1b[31m", "t" * 200, "zwei\nZeilen"]
    content = yaml.safe_load(project.one_task(tmp_path / "one.yaml").read_text(encoding="utf-8"))
    (task,) = content["tasks"].values()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**content, "tasks": dict.fromkeys(names, task)}), encoding="utf-8")
    shutil.copytree(ran[0], tmp_path / "out")
    done = epmq("verify", "out", "--recipe", recipe, folder=tmp_path, COLUMNS=None)
    shown = done.stdout
    assert done.code == 0, done.stderr
    assert "Traceback" not in done.stderr and "\x1b" not in shown
    for name in ("[red]mood[/red]", "x[/y]", ":smile: \\x1b[31m", "t" * 200, "zwei\\nZeilen"):
        row = next(line for line in shown.splitlines() if line.strip().startswith(name))
        assert len(row[len(name) + 1 :].split()) == 6  # a score of each model stands in the task's own line
