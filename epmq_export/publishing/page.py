"""report.html: a run as one page, made from report.json alone.

The page needs no network and runs no script. Every text of the report is escaped.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from epmq_export import files
from epmq_export.publishing import verdict
from epmq_export.publishing.differences import Differences
from epmq_export.publishing.report import Report, printable, read_report
from epmq_export.publishing.sections import Section, differences_of, sections_of
from epmq_export.publishing.verdict import Headline
from epmq_export.publishing.words import several

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_ROWS = 600
"""The rows of a table that are shown at most, so that a page opens at once whatever the model."""

_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Run:
    """A run as the page shows it."""

    letter: str
    """A or B where the page has two, else empty."""

    name: str
    """The name of its directory where the page has two, else empty."""

    subject: str
    """What was made, in words."""

    headline: Headline
    sections: list[Section]


@dataclass(frozen=True)
class Comparison:
    """What the page of two runs has besides the first one's report."""

    other: Report
    """The report of the second run."""

    differences: Differences
    """How far the second run's scores are above the first one's."""

    names: tuple[str, str] = ("", "")
    """The names of the two runs' directories."""


def write_page(report: Path, page: Path) -> None:
    """Write the page of a report.json, whole or not at all.

    Raises InputError where the report is absent, of another format or not whole, and OutputError where the
    page cannot be written.
    """
    _write(page, page_of(read_report(report)))


def write_comparison(
    report: Path, other: Path, page: Path, compare: Callable[[Report, Report], Differences]
) -> None:
    """Write the page of two reports side by side, as `write_page` does. `compare` tells how their scores
    differ.
    """
    one, two = read_report(report), read_report(other)
    names = (report.absolute().parent.name, other.absolute().parent.name)
    _write(page, page_of(one, Comparison(two, compare(one, two), names)))


def _write(page: Path, text: str) -> None:
    with files.whole(page) as built:
        built.write_text(text, encoding="utf-8")


def page_of(report: Report, comparison: Comparison | None = None) -> str:
    """Return the page of a run, or of two runs side by side, as HTML. The same reports give the same text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_code"] = _with_code
    if comparison is None:
        runs, differences = [_run(report, "")], None
    else:
        one, two = comparison.names
        runs = [_run(report, "A", one), _run(comparison.other, "B", two)]
        differences = differences_of(report, comparison.other, comparison.differences)
    return environment.get_template("report.html.jinja").render(
        runs=runs,
        most_rows=MOST_ROWS,
        differences=differences,
        version=report.versions.get("epmq-export", ""),
    )


def _with_code(sentence: str) -> "Markup":
    """Return a sentence as HTML: all of it escaped, and what stands between two backquotes as code."""
    from markupsafe import Markup, escape

    parts = re.split(r"`([^`]+)`", sentence)  # Every second part stood between two.
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts)
    )


def _run(report: Report, letter: str, name: str = "") -> Run:
    """Return a run with the paths of its files as its directory has them."""
    root = verdict.root_of(report)
    head = verdict.headline(report)
    told = report.model_copy(
        update={
            "files": [
                file.model_copy(
                    update={
                        "path": file.path.removeprefix(root),
                        "others": [
                            part.model_copy(update={"path": part.path.removeprefix(root)})
                            for part in file.others
                        ],
                    }
                )
                for file in report.files
            ]
        }
    )
    return Run(
        letter=letter,
        name=printable(name),
        subject=_subject(report),
        headline=head,
        sections=sections_of(told, f"{letter.lower()}-" if letter else ""),
    )


def _subject(report: Report) -> str:
    """Return what was made, in words."""
    method = report.method.get("name")
    count = len(report.recipe.content.get("tasks") or report.tasks)
    told = [several(count, "task") if count else "", f"calibrated by {method}" if method else ""]
    return ", ".join(filter(None, (report.about.name, *told)))
