"""Tables in Markdown."""

from collections.abc import Sequence


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """In Markdown; the first row is the head."""
    lines = [" | ".join(row) for row in rows]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join("---" for _ in rows[0]), *lines[1:]))
