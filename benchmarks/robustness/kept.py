"""A table whose parts are measured at different times, each with its own machine, date and command."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import PAGE, RESULTS
from benchmarks.tables import Markers, put, table, write_json, write_text


class Kept:
    """The parts of a table, as NAME.json and NAME.md in a folder; one measured again takes its own place."""

    def __init__(self, out: Path, name: str, order: Sequence[str]) -> None:
        self._file, self._order = out / f"{name}.json", order
        self._parts: dict[str, dict[str, Any]] = {}
        if self._file.exists():
            self._parts = json.loads(self._file.read_text(encoding="utf-8"))

    def keep(self, part: str, about: str, rows: Sequence[Sequence[str]], told: Sequence[str] = ()) -> None:
        """Keep what was measured of a part: rows of the table, and sentences that stand below it."""
        self._parts[part] = {"about": about, "rows": [*map(list, rows)], "told": [*told]}
        write_json(self._file, self._parts)

    def text(self, head: Sequence[str]) -> str:
        """Return where and when each part was measured, the table, and what is told of it, in Markdown."""
        known = [part for part in self._order if part in self._parts]
        measured: dict[str, list[str]] = {}
        for part in known:
            measured.setdefault(self._parts[part]["about"], []).append(part)
        about = "".join(f"- {'; '.join(parts)}: {each}\n" for each, parts in measured.items())
        rows = [row for part in known for row in self._parts[part]["rows"]]
        told = "".join(f"- {each}\n" for part in known for each in self._parts[part]["told"])
        return f"{about}\n{table([head, *rows])}\n" + (f"\n{told}" if told else "")

    def write(self, title: str, head: Sequence[str], markers: Markers) -> None:
        """Write the table, and put it into the page of results if it is one of those that are committed."""
        written = self.text(head)
        write_text(self._file.with_suffix(".md"), f"# {title}\n\n{written}")
        if self._file.parent == RESULTS:
            put(PAGE, markers, written)
