"""What is left of an output whose process is killed: the old one, the new one, or none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import ROOT


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no forks")
def test_a_kill_leaves_the_old_or_the_new_and_the_next_run_finds_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.files.kill_trials", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
