"""The benchmark of files in ONNX Runtime, on a tiny decoder."""

from pathlib import Path

from benchmarks.speed.runtimes import DECODER, ENCODER, main


def test_every_length_is_measured_and_told(tmp_path: Path) -> None:
    main(["--shape", "tiny", "--repeats", "1", "--work", str(tmp_path / "work"), "--out", str(tmp_path)])
    lines = (tmp_path / "speed_runtimes.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith(("| MiniLM", "| Llama of tiny"))]
    assert len(rows) == len(ENCODER) + len(DECODER)
    assert all(float(row.split(" | ")[5]) > 0 for row in rows)
