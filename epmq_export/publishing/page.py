"""report.html: a run as one page, made from report.json alone.

The page needs no network and runs no script. Every text of the report is escaped.
"""

from dataclasses import dataclass
from pathlib import Path

from epmq_export import files
from epmq_export.publishing import verdict
from epmq_export.publishing.report import Report, printable, read_report
from epmq_export.publishing.sections import Section, differences_of, sections_of
from epmq_export.publishing.verdict import Headline
from epmq_export.publishing.words import several

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


def write_page(report: Path, page: Path, other: Path | None = None) -> None:
    """Write the page of a report.json, whole or not at all; with another report, that of both side by side.

    Raises InputError where a report is absent, of another format or not whole, and OutputError where the
    page cannot be written.
    """
    name = report.absolute().parent.name
    names = (name, "") if other is None else (name, other.absolute().parent.name)
    text = page_of(read_report(report), None if other is None else read_report(other), names)
    with files.whole(page) as built:
        built.write_text(text, encoding="utf-8")


def page_of(report: Report, other: Report | None = None, names: tuple[str, str] = ("", "")) -> str:
    """Return the page of a run, or of two runs side by side, as HTML. `names` are those of the two runs. The
    same reports give the same text.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    runs = [_run(report, "")] if other is None else [_run(report, "A", names[0]), _run(other, "B", names[1])]
    return environment.get_template("report.html.jinja").render(
        runs=runs,
        most_rows=MOST_ROWS,
        differences=None if other is None else differences_of(report, other),
        version=report.versions.get("epmq-export", ""),
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
