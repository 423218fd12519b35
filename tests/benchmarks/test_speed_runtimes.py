"""The benchmark of files in their runtimes, on a tiny decoder."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import PAGE
from benchmarks.speed.calls import Length
from benchmarks.speed.runtimes import DECODER, ENCODER, MARKERS, RUNTIMES, Row, everything, in_short, main
from benchmarks.speed.written import Storage
from benchmarks.tables import replaced


def test_every_file_is_measured_at_every_length_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [replace(each, encoder=each.encoder[:2], decoder=each.decoder[:2]) for each in RUNTIMES]
    monkeypatch.setattr("benchmarks.speed.runtimes.RUNTIMES", few)
    monkeypatch.setattr("benchmarks.speed.runtimes.CALL", 0.0)
    main(["--shape", "tiny", "--repeats", "1", "--work", str(tmp_path / "work"), "--out", str(tmp_path)])
    lines = (tmp_path / "speed_runtimes.md").read_text(encoding="utf-8").splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith(("| MiniLM", "| Llama of tiny"))]
    for runtime in few:
        own = [row for row in rows if row[1] == runtime.name]
        assert len(own) == len(runtime.encoder) * len(ENCODER) + len(runtime.decoder) * len(DECODER)
        full = [row for row in own if row[2] in ("F32", "F16")]
        assert len(full) == len(ENCODER) + len(DECODER) and {row[6] for row in full} == {"1.00"}
        small = {(row[0], row[2]): float(row[3].removesuffix(" MB")) for row in own}
        assert small["| MiniLM", "Q4_0, rows F16"] < small["| MiniLM", runtime.encoder[0].linears]
    assert all(float(row[6]) > 0 for row in rows)


def test_what_is_told_of_a_file() -> None:
    length = Length(1, 32)
    seconds, times = np.array([0.004, 0.002, 0.003]), np.array([0.5, 0.25, 0.75])
    row = Row("M", "R", Storage("Q4_0", "Q8_0"), 31_040_000, {length: seconds}, {length: times})
    line = "| M | R | Q4_0, rows Q8_0 | 31.0 MB | 1 behind 32 | 3.0 ms | 0.50 | 0.25, 0.75 |"
    assert everything([row]).splitlines()[2:] == [line]
    head, _, told = in_short([row]).splitlines()
    assert (head, told) == ("| M | file | size | 1 behind 32 |", "| R | Q4_0, rows Q8_0 | 31.0 MB | 0.50 |")


def test_the_page_has_a_place_for_the_tables() -> None:
    assert replaced(PAGE.read_text(encoding="utf-8"), MARKERS, "new", PAGE.name)
