"""The wheel has what the packages need beside Python files, and the lock what they need beside the wheel."""

import re
import subprocess
import tomllib

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


def test_the_lock_has_all_that_the_project_asks_for() -> None:
    """`make lock` writes it anew. Of torch each machine has a build of its own."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    locked: dict[str, list[str]] = {}
    for name, version, hashes in re.findall(
        r"^([\w.-]+)==(\S+)([^\n]*(?:\n +--hash=sha256:\w+.*)+)", text, re.M
    ):
        assert hashes.count("--hash=sha256:") >= 1
        locked.setdefault(canonicalize_name(name), []).append(version)
    assert sum(map(len, locked.values())) == len(re.findall(r"^\w", text, re.M))
    project = PROJECT["project"]
    asked = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    asked += (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[1:]
    for requirement in map(Requirement, asked):
        if requirement.name not in ("torch", project["name"]):
            versions = locked.get(canonicalize_name(requirement.name), ["none"])
            assert all(requirement.specifier.contains(each) for each in versions), requirement
