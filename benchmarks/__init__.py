"""The measurements that the project's figures come from; README.md here says what each command measures."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The project's own directory."""

RESULTS = ROOT / "benchmarks" / "results"
"""Where the committed tables are."""

PAGE = ROOT / "docs" / "results.md"
"""The page that shows them."""
