"""Every command says what it does, and what it cannot do without."""

from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import ROOT
from benchmarks.commands import as_asked, parser

COMMANDS = sorted(
    ".".join(path.relative_to(ROOT / "benchmarks").with_suffix("").parts).removesuffix(".__main__")
    for path in (ROOT / "benchmarks").rglob("*.py")
    if "\nif __name__ ==" in path.read_text(encoding="utf-8")
    # Other commands run these: one in another environment, one where nothing is installed.
    and "worker" not in path.stem
    and path.parts[-2:] != ("gpu", "install.py")
)


def run(command: str, *arguments: str) -> None:
    """Run a command in this process."""
    module = ROOT / "benchmarks" / command.replace(".", "/")
    import_module(f"benchmarks.{command}{'.__main__' if module.is_dir() else ''}").main(arguments)


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(command, "--help")
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: python -m benchmarks.{command} ")
    assert f"    python -m benchmarks.{command}" in told  # an example


def test_the_head_of_a_table_has_what_was_asked_for() -> None:
    known = parser("robustness.kills", None)
    known.add_argument("--random", type=int, default=100)
    known.add_argument("--commands", nargs="+", default=["merge"])
    known.add_argument("--tiny", action="store_true")
    known.add_argument("--out", type=Path, default=Path())
    for asked in ("", " --random 25", " --commands merge run --tiny"):
        given = known.parse_args([*asked.split(), "--out", "somewhere"])
        assert as_asked(known, given) == f"python -m benchmarks.robustness.kills{asked}"


def test_the_page_lists_every_command() -> None:
    page = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    told = {word.strip("`") for word in page.split() if word.startswith("`benchmarks.")}
    assert told == {f"benchmarks.{command}" for command in COMMANDS}


@pytest.mark.parametrize(
    "command",
    ["accuracy", "study", "study.rounding", "study.divergence"],
)
def test_data_must_be_given(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(command)
    assert left.value.code == 2
    assert "the following arguments are required: --data" in capsys.readouterr().err


def test_nothing_names_a_place_of_one_machine() -> None:
    for path in (ROOT / "benchmarks").rglob("*.py"):
        assert "shared/data" not in path.read_text(encoding="utf-8"), path


def test_documented_commands_are_there() -> None:
    """Each `python -m benchmarks.NAME` that a page of the project shows."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "benchmarks").rglob("*.md")]
    pages += [*(ROOT / "epmq_export").rglob("*.md"), *(ROOT / "recipes").glob("*.md")]
    told: set[tuple[str, Path]] = set()
    for page in pages:
        for part in page.read_text(encoding="utf-8").split("python -m benchmarks.")[1:]:
            name = part.split()[0].strip("`.,;:)")
            told.add((name, page))
    assert {name for name, _ in told} <= {*COMMANDS, "NAME"}, told
