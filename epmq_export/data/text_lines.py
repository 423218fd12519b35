"""Texts and labels in line files.

The files, each also with `.gz`, are UTF-8: `.txt` (a text on each line), `.tsv` (label TAB text), `.jsonl`
({"text": ..., "label": ...}, or conversations as {"messages": [...]}) and `.csv` (a header with `text` and
perhaps `label`). Keys and columns may have other names, and several may be texts. A label is a name of the
task's labels, or an index into them. Blank lines do not count.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from epmq_export.data.conversations import COLUMN as CONVERSATIONS
from epmq_export.data.conversations import conversation
from epmq_export.data.text_rows import Text, Texts, checked
from epmq_export.errors import InputError, did_you_mean

# The most keys that a sentence names, and the most letters of each.
_FEW, _LONGEST = 5, 40
# How many times as many labels as texts no data have.
_MORE = 10


@dataclass(frozen=True)
class _Named:
    """The columns that are asked for."""

    texts: Sequence[str] | None
    labels: str | None

    @property
    def columns(self) -> Sequence[str]:
        return self.texts or ("text",)

    def columns_of(self, row: Mapping[str, object]) -> Sequence[str]:
        """Return the columns of a row: that of conversations where none of texts is asked for or there."""
        chats = self.texts is None and "text" not in row and isinstance(row.get(CONVERSATIONS), list)
        return (CONVERSATIONS,) if chats else self.columns

    @property
    def label(self) -> str:
        return self.labels or "label"

    def sample(self, place: str, row: dict[str, object]) -> Text:
        (first, *more) = columns = self.columns_of(row)
        if isinstance(messages := row[first], list) and not more:
            return conversation(messages, place, first)
        return Text(
            place, {name: checked(row[name], place, name if self.texts else None) for name in columns}
        )


class _Line(NamedTuple):
    sample: Text
    label: object
    """A name, or an index as text, or None where there is none. In .jsonl it may be anything else, too."""


def read_lines(path: Path, texts: Sequence[str] | None = None, labels: str | None = None) -> Texts:
    """Return the texts of a file, in its order. A .tsv line without a tab is a text.

    Raises InputError where there are none.
    """
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(
            f"{path}: found {f'the ending {suffix!r}' if suffix else 'no ending'}, expected one of "
            f"{', '.join(_FORMATS)}, "
            "one of these with .gz, or .parquet"
        )
    if suffix in (".txt", ".tsv") and (
        key := "texts" if texts is not None else "labels" if labels is not None else None
    ):
        raise InputError(
            f"{path}: found the key {key}, expected it left out: a {suffix} file has no columns with names"
        )
    lines = list(_FORMATS[suffix](path, _Named(texts, labels)))
    if not lines:
        raise InputError(f"{path}: found no text, expected at least one line")
    if suffix == ".tsv":
        _refuse_turned(path, lines)
    labelled = any(line.label is not None for line in lines)
    return Texts(
        [line.sample for line in lines], [line.label for line in lines] if labelled else None, written=True
    )


def _refuse_turned(path: Path, lines: Sequence[_Line]) -> None:
    """Raise InputError where texts stand before labels, as in some corpora: ten times as many are distinct
    before the tabs as behind them.
    """
    found = [(str(line.label), *line.sample.values.values()) for line in lines if line.label is not None]
    labels, texts = ({line[0] for line in found}, {line[1] for line in found})
    if len(labels) >= _MORE * len(texts) > 0:
        raise InputError(
            f"{path}: found {len(texts)} distinct texts behind the tabs and {len(labels)} before them, "
            "expected label<TAB>text; where columns stand otherwise, a .csv names them"
        )


def _decoded(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and the text of each line, without its end.

    Only a newline ends a line, whatever else Unicode calls a line break.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if b"\0" in raw:
                    raise InputError(f"{path}:{number}: found a NUL byte, expected text in UTF-8")
                yield (
                    number,
                    raw.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n").removesuffix("\r"),
                )
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}:{number}: found byte 0x{error.object[error.start]:02x}, expected text in UTF-8"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}:{number + 1}: broken gzip after line {number} ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror})") from None


def _txt(path: Path, named: _Named) -> Iterator[_Line]:
    for number, line in _decoded(path):
        if line.strip():
            yield _Line(named.sample(f"{path}:{number}", {"text": line}), None)


def _tsv(path: Path, named: _Named) -> Iterator[_Line]:
    for number, line in _decoded(path):
        if line.strip():
            label, tab, text = line.partition("\t")
            yield _Line(
                named.sample(f"{path}:{number}", {"text": text if tab else line}),
                label.strip() or None if tab else None,
            )


def _jsonl(path: Path, named: _Named) -> Iterator[_Line]:
    shown = ", ".join(
        f"{json.dumps(name, ensure_ascii=False)}: ..." for name in (*named.columns, named.label)
    )
    for number, line in _decoded(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not readable as JSON ({error})") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}:{number}: found a {type(row).__name__}, expected {{{shown}}}")
        if lacking := [name for name in named.columns_of(row) if name not in row]:
            others = ", ".join(json.dumps(name[:_LONGEST]) for name in [*row][:_FEW])
            found = f'no "{lacking[0]}"' + (f", but {others}" if others else "")
            near = did_you_mean(lacking[0], row) or " (the key texts names others)"
            raise InputError(f"{path}:{number}: found {found}, expected {{{shown}}}{near}")
        label = row.get(named.label)
        whole = isinstance(label, int) and not isinstance(label, bool)
        yield _Line(named.sample(f"{path}:{number}", row), str(label) if whole else label)


def _csv(path: Path, named: _Named) -> Iterator[_Line]:
    reader = csv.reader((line + "\n" for _, line in _decoded(path)), strict=True)
    start = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        wanted = [*named.columns, *([] if named.labels is None else [named.labels])]
        if wrong := next((name for name in wanted if header.count(name) != 1), None):
            perhaps = (
                f"{', '.join(named.columns)} and {'perhaps ' if named.labels is None else ''}{named.label}"
            )
            if len(header) == 1 and any(sign in header[0] for sign in ";\t|"):
                perhaps += ", separated by commas"
            found = (
                f"the column {wrong} twice"
                if wrong in header
                else f"the columns {', '.join(header)}"
                if header
                else "no header"
            )
            raise InputError(
                f"{path}:1: found {found}, expected "
                f"{perhaps}{did_you_mean(wrong, header) if wrong not in header else ''}"
            )
        start = reader.line_num + 1
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise InputError(
                        f"{path}:{start}: found {len(row)} fields, expected {len(header)} as in the header"
                    )
                cells: dict[str, object] = dict(zip(header, row, strict=True))
                yield _Line(
                    named.sample(f"{path}:{start}", cells), str(cells.get(named.label, "")).strip() or None
                )
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{start}: not readable as CSV ({error})") from None


_FORMATS: dict[str, Callable[[Path, _Named], Iterator[_Line]]] = {
    ".txt": _txt,
    ".tsv": _tsv,
    ".jsonl": _jsonl,
    ".csv": _csv,
}
