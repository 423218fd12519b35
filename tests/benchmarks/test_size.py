"""The benchmark of size and speed on models of a smaller shape."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks import RESULTS, ROOT
from benchmarks.size import __main__ as size
from benchmarks.size import models
from epmq_export.recipe.load import load_recipe


def test_the_committed_table_is_what_its_results_say() -> None:
    content = json.loads((RESULTS / "paper_size.json").read_text(encoding="utf-8"))
    text = size.text(content["about"], content["rows"])
    assert (RESULTS / "paper_size.md").read_text(encoding="utf-8") == text


def test_a_run_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the run itself, whose report is written here: its export takes minutes."""
    monkeypatch.setitem(models.SHAPES, "b32", models.Shape(64, 1, 32, 64, 32))
    monkeypatch.setattr(models, "VOCABULARY", 600)

    def watched(command: list[str]) -> tuple[int, int]:
        assert command[:2] == [sys.executable, str(ROOT / "cli.py")] and command[-1] == "--resume"
        recipe = load_recipe(Path(command[3]))
        assert len(recipe.tasks) == 2 and recipe.calibration.samples == 3
        checks = {"codes": {"equal": True}, "graph": {"value": 1e-4}}
        files = [
            {"format": kind, "path": path, "bytes": 10**6, "others": [], "checks": checks, "notes": notes}
            for kind, path, notes in (
                ("gguf", "gguf/model.gguf", {}),
                ("onnx", "onnx/onnx/vision_model_q4.onnx", {"fused": 6, "linears": 6}),
            )
        ]
        report = {
            "verdict": "pass",
            "seconds": {"calibrate": 60.0},
            "peak_memory_bytes": 2**30,
            "files": files,
        }
        (out := Path(command[5])).mkdir()
        (out / "report.json").write_text(json.dumps(report))
        return 0, 2**29

    monkeypatch.setattr(size, "watched", watched)
    asked = ["b32", "--experts", "2", "--samples", "3", "--merge", "task_arithmetic"]
    size.main([*asked, "--work", str(tmp_path / "work"), "--out", str(tmp_path)])
    (row,) = json.loads((tmp_path / "paper_size.json").read_text())["rows"]
    assert (row["model"], row["experts"], row["samples"]) == ("b32", 2, 3)
    assert row["forward_seconds"] > 0 and row["base_bytes"] > 10**5
    text = (tmp_path / "paper_size.md").read_text()
    assert "| ViT-B/32 | 2 | 3 | task_arithmetic | 1.0 min |" in text
    assert "| 1.0 GiB | 0.5 GiB |" in text and "| 1 MB | 1 MB | 6 of 6 |" in text
    # Another run adds its row and keeps this one; what is written once is not written again.
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("b32*/*")}
    shutil.rmtree(tmp_path / "work" / "b32-2-3-task_arithmetic-out")
    size.main([*asked, "--work", str(tmp_path / "work"), "--out", str(tmp_path)])
    assert len(json.loads((tmp_path / "paper_size.json").read_text())["rows"]) == 1
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").glob("b32*/*")}
    assert {path: time for path, time in after.items() if path.name != "report.json"} == {
        path: time for path, time in written.items() if path.name != "report.json"
    }


def test_noise_stays_on_the_image_towers_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "VOCABULARY", 600)
    models.write_base(models.Shape(64, 1, 32, 64, 32), tmp_path / "base")
    models.write_expert(tmp_path / "base", tmp_path / "expert", 1)
    base, expert = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "expert"))
    for name, value in expert.items():
        before = base[name if name in base else f"vision_model.{name}"]
        moved = not torch.equal(value, before)
        assert value.dtype == torch.float16 and moved == (value.ndim == 2 and "encoder" in name), name


def test_the_memory_of_a_command_is_watched() -> None:
    code, most = size.watched(
        [sys.executable, "-c", "import time; held = bytearray(2**26); time.sleep(0.5); exit(7)"]
    )
    assert code == 7 and 2**26 < most < 2**28
