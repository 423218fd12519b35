"""The count of the calls by which a job writes."""

import importlib
import os
import sys
from pathlib import Path

import pytest

from benchmarks.robustness.killing import calls, run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no forks")


def test_what_python_compiles_for_itself_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (tmp_path / "compiled_once.py").write_text("")

    def job() -> None:
        importlib.import_module("compiled_once")
        (tmp_path / "result").write_text("")

    assert calls(job, tmp_path / "said") == 1 and (tmp_path / "__pycache__").is_dir()
    assert run(job, tmp_path / "said", before=1) == -9 and run(job, tmp_path / "said", before=2) == 0
