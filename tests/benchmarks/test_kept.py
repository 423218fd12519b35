"""Tables that are measured part by part."""

from pathlib import Path

from benchmarks.robustness.kept import Kept
from benchmarks.tables import Markers

MARKERS = Markers("<!-- a -->", "<!-- b -->")


def test_a_part_that_is_measured_again_leaves_the_others_as_they_were(tmp_path: Path) -> None:
    kept = Kept(tmp_path, "kills", ["merge", "run"])
    kept.keep("run", "then", [("run", "1")], ["run, a fault"])
    kept.keep("merge", "then", [("merge", "2")])
    kept.write("Kills", ("command", "kills"), MARKERS)
    table = "\n| command | kills |\n| --- | --- |\n| merge | 2 |\n| run | {} |\n"
    wanted = f"# Kills\n\n- merge; run: then\n{table.format(1)}\n- run, a fault\n"
    assert (tmp_path / "kills.md").read_text() == wanted
    again = Kept(tmp_path, "kills", ["merge", "run"])
    again.keep("run", "now", [("run", "3")])
    assert again.text(("command", "kills")) == f"- merge: then\n- run: now\n{table.format(3)}"
