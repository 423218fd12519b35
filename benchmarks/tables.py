"""Results as files: JSON, and tables in Markdown."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import PAGE, RESULTS
from epmq_export import files


class Markers(NamedTuple):
    """The comments that a table stands between in a page of the docs."""

    begin: str
    end: str

    @classmethod
    def of(cls, what: str, command: str) -> "Markers":
        """Return the markers of a table, which name the module that writes it."""
        return cls(f"<!-- {what}: written by {command} -->", f"<!-- {what} ends -->")


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


def replaced(text: str, markers: Markers, new: str, page: str) -> str:
    """Return a page's text with other content between the markers.

    Raises SystemExit, naming the page, where the markers are not there once each, in order.
    """
    before, begin, rest = text.partition(markers.begin)
    _, end, after = rest.partition(markers.end)
    if not (begin and end) or markers.begin in rest or markers.end in before + after:
        raise SystemExit(
            f"{page}: expected the markers {markers.begin} and {markers.end} once each, in this order"
        )
    return f"{before}{begin}\n{new.strip()}\n\n{end}{after}"


def put(page: Path, markers: Markers, new: str) -> None:
    """Put content into a page, between the markers. Raises SystemExit as `replaced` does."""
    write_text(page, replaced(page.read_text(encoding="utf-8"), markers, new, page.name))


def publish(folder: Path, name: str, title: str, found: object, told: str, markers: Markers) -> None:
    """Write what was found as NAME.json, and what is told of it as NAME.md; put that into the page of results
    where the folder is the one of the committed results. Print it.
    """
    write_json(folder / f"{name}.json", found)
    write_text(folder / f"{name}.md", f"# {title}\n\n{told}")
    if folder == RESULTS:
        put(PAGE, markers, told)
    print(told)
