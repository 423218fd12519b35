"""What `epmq doctor` finds missing, broken or dead."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from epmq_export.console.diagnosis import show_diagnosis
from epmq_export.doctor import PARTS, Diagnosis, Found, Part, diagnose, whole
from tests import ROOT
from tests.command_line.command import ASCII, NO_CLIENTS


def part(module: str, program: str, needed: bool = True) -> Part:
    return Part("thing", module, program, "all is lost", "pip install thing", needed)


def test_what_is_missing_broken_or_dead_is_told_apart() -> None:
    found = diagnose(
        [
            part("json", "print(1)"),
            part("no_such_module_anywhere", "print(1)"),
            part("json", "import json.nothing"),
            part("json", "import os; os.kill(os.getpid(), 11)", needed=False),
        ]
    )
    assert [(entry.found, entry.problem) for entry in found.parts[1:]] == [
        ("1", None),
        (None, "is not installed"),
        (None, "ModuleNotFoundError: No module named 'json.nothing'"),
        (None, "died of SIGSEGV when it started"),
    ]
    assert len(found.missing) == 3 and len(found.lacking) == 2
    assert found.as_dict()["ready"] is False
    assert all(place.free > 0 for place in found.places) and len(found.places) == 2


@pytest.mark.parametrize(
    ("needed", "seen", "ready"),
    [
        (True, "✗ thing is not installed", None),
        (False, "- thing is not installed", "ready: all that the main job needs is here"),
    ],
)
def test_what_is_in_nobodys_way_is_no_fault(
    needed: bool, seen: str, ready: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = Found("thing", None, "is not installed", "all is lost", "pip install thing", needed)
    show_diagnosis(Diagnosis([missing], []))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert seen in lines
    assert (ready is None) == (not lines[-1].startswith("ready: "))
    assert ready is None or lines[-1].startswith(ready)


def installed(place: Path, name: str, *needs: str, code: str = "") -> None:
    """Install a package of version 1.5 of another place than the usual one."""
    (place / name).mkdir()
    (place / name / "__init__.py").write_text(code)
    information = place / f"{name}-1.5.dist-info" / "METADATA"
    information.parent.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.5"]
    information.write_text("\n".join([*lines, *(f"Requires-Dist: {need}" for need in needs), ""]))


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ([], "1.5"),
        (["numpy>=1.0", "no-such-package; extra == 'more'", "none-here; python_version < '3'"], "1.5"),
        (["no-such-package"], None),
        (["numpy>=1.0", "numpy<1.0"], None),
        (["numpy ???"], None),
    ],
)
def test_metadata_say_whether_a_package_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needs: list[str], expected: str | None
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    installed(tmp_path, "ours", *needs)
    assert whole("ours") == expected and whole("no_such_module_anywhere") is None


def test_metadata_of_another_copy_say_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.syspath_prepend(tmp_path / name)
    installed(tmp_path / "first", "ours")
    assert whole("ours") == "1.5"
    (tmp_path / "second" / "ours.py").write_text("")
    assert whole("ours") is None


def test_a_whole_part_is_not_imported_but_what_is_compiled_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    installed(tmp_path, "ours", code="raise ImportError('seconds are lost')")
    installed(tmp_path, "theirs", "no-such-package", code="raise ImportError('no such package')")
    (tmp_path / "broken.py").write_text("raise ImportError('libgone.so: cannot open')")

    def tried(module: str, compiled: str) -> Part:
        return Part(module, module, f"import {module}", "all is lost", "pip install it", compiled=compiled)

    found = diagnose([tried("ours", "json, numpy"), tried("ours", "broken"), tried("theirs", "json")])
    assert [(entry.found, entry.problem) for entry in found.parts[1:]] == [
        ("1.5", None),
        (None, "ImportError: libgone.so: cannot open"),
        (None, "ImportError: no such package"),
    ]


def test_what_the_project_needs_is_looked_at() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {requirement.split(";")[0] for requirement in project["dependencies"]}
    names = {name for requirement in declared for name in [requirement.partition(">=")[0].partition("==")[0]]}
    assert names - {entry.name for entry in PARTS} == {
        "numpy",
        "typer",
        "rich",
        "huggingface_hub",
        "jinja2",
        "pydantic",
        "PyYAML",
        "tokenizers",
        "onnx-ir",
        "protobuf",
    }
    pinned = next(entry for entry in PARTS if entry.name == "xllamacpp")
    assert pinned.install.removeprefix("pip install ") in declared


def doctor(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command, without the clients that this machine may have."""
    command = [sys.executable, "cli.py", "doctor", *options]
    environment = {**os.environ, **NO_CLIENTS, **environment}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def test_the_command(tmp_path: Path) -> None:
    """Twice: as things are here, beside a client that says no more than its versions; and with a library of
    another version and one that cannot be imported in front of the real ones, in a locale of few letters.
    """
    client = tmp_path / "client"
    client.write_text("#!/bin/sh\necho 5.7.1\necho optimum 2.0\n")
    client.chmod(0o755)
    good = doctor("--json", EPMQ_SENTENCE_TRANSFORMERS=str(client), EPMQ_BROWSER=sys.executable)
    told = json.loads(good.stdout)
    assert told["ready"] and good.returncode == 0 and good.stderr == ""
    by_name = {entry["name"]: entry for entry in told["parts"]}
    assert "CPUExecutionProvider" in by_name["onnxruntime"]["found"]
    assert by_name["xllamacpp"]["found"] in by_name["xllamacpp"]["install"]
    assert by_name["sentence-transformers"]["found"] == "5.7.1 (optimum 2.0)"
    for name in ("transformers.js", "onnxruntime-web"):
        assert by_name[name]["problem"] == "transformers.js has no Node on the PATH"

    for name, content in {
        "xllamacpp/__init__.py": "",
        "onnxruntime/__init__.py": "raise ImportError('libgone.so: cannot open')",
    }.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(content)
    information = tmp_path / "xllamacpp-1.0.dist-info" / "METADATA"
    information.parent.mkdir()
    information.write_text("Metadata-Version: 2.1\nName: xllamacpp\nVersion: 1.0\n")
    bad = doctor(PYTHONPATH=str(tmp_path), COLUMNS="80", **ASCII)
    assert bad.returncode == 4
    assert bad.stderr == "error: the main job cannot run without onnxruntime, xllamacpp\n"
    assert "GGUF files cannot be verified" in bad.stdout and "ONNX files cannot be verified" in bad.stdout
    flat = " ".join(bad.stdout.split())
    assert "libgone.so: cannot open" in flat and "FAIL xllamacpp xllamacpp is 1.0, expected" in flat
    assert bad.stdout.isascii() and "\\u" not in bad.stdout and "\\x" not in bad.stdout
