"""The wheel has what the packages need beside Python files."""

import subprocess
import tomllib

from epmq_export import __version__
from tests import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_file_of_a_package_is_in_the_wheel() -> None:
    data: dict[str, list[str]] = PROJECT["tool"]["setuptools"]["package-data"]
    listed = subprocess.run(
        ["git", "ls-files", *data], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(listed) > 100
    kept = {path for name, patterns in data.items() for each in patterns for path in (ROOT / name).glob(each)}
    assert [path for path in listed if not path.endswith(".py") and ROOT / path not in kept] == []


def test_every_folder_of_python_files_is_a_package() -> None:
    for name in ("epmq_export", "converters", "formats"):
        assert (ROOT / name / "py.typed").is_file()
        folders = {path.parent for path in (ROOT / name).rglob("*.py")}
        assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_the_version_is_said_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    attribute = PROJECT["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attribute == "epmq_export._version.__version__" and __version__ == "0.1.0"
