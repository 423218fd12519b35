"""Results as files: JSON, and tables in Markdown."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from epmq_export import files


def percent(share: float) -> str:
    """Return a share in percent, with one decimal and no sign."""
    return f"{100 * share:.1f}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown; the first row is its head."""
    lines = [" | ".join(row) for row in rows]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join("---" for _ in rows[0]), *lines[1:]))


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write text, whole or not at all."""
    with files.whole(path) as built:
        built.write_text(text, encoding="utf-8")
