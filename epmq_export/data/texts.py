"""Texts and labels in line files.

The files, each also with `.gz`, UTF-8: `.txt` (a text a line), `.tsv` (label TAB text), `.jsonl` ({"text": ..., "label": ...}) and
`.csv` (a header with `text` and perhaps `label`). A label is a name of the task's labels, or an index into them. Blank lines do not count.
"""

import csv
import gzip
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from epmq_export.errors import InputError
from epmq_export.nearest import did_you_mean
from epmq_export.yaml_lines import encodable


class _Line(NamedTuple):
    number: int
    text: str
    label: str | None


def read_texts(path: Path) -> list[str]:
    """The texts of a file, in its order; labels are ignored, and a .tsv line without a tab is a text. InputError where there are none."""
    return [line.text for line in _lines(path, labelled=False)]


def read_labelled(path: Path, labels: list[str]) -> list[tuple[int, str]]:
    """Label index and text of each line; InputError with the line where a label is missing or not in the list."""
    order = {name: index for index, name in enumerate(labels)}
    return [(_index(path, line, order), line.text) for line in _lines(path, labelled=True)]


def read_answered(path: Path, *, number: bool) -> list[tuple[str, str]]:
    """The label of each line, which is the answer to its text, and the text; InputError where it has none, or none that is a finite `number`."""
    lines = _lines(path, labelled=True)
    for line in lines:
        if not line.label:
            raise InputError(f"{path}:{line.number}: found no label, expected the answer to the text")
        if number and not _is_number(line.label):
            raise InputError(f"{path}:{line.number}: found the label {line.label[:60]!r}, expected a number")
    return [(line.label or "", line.text) for line in lines]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _index(path: Path, line: _Line, labels: dict[str, int]) -> int:
    if line.label is None:
        raise InputError(f"{path}:{line.number}: found no label, expected one of the task's {len(labels)} labels")
    if line.label in labels:
        return labels[line.label]
    if re.fullmatch(r"[0-9]{1,9}", line.label):
        if int(line.label) < len(labels):
            return int(line.label)
        raise InputError(f"{path}:{line.number}: found the label index {line.label}, expected one below {len(labels)}")
    few = f" ({', '.join(labels)})" if len(labels) <= 8 else ""
    raise InputError(
        f"{path}:{line.number}: found the label {line.label[:60]!r}, expected one of the task's {len(labels)} labels{few}{did_you_mean(line.label, labels)}"
    )


def _lines(path: Path, *, labelled: bool) -> list[_Line]:
    """Every text of the file; InputError where it holds none."""
    if path.is_dir():
        raise InputError(f"{path}: found a directory, expected a file of texts")
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(f"{path}: found the ending {suffix or 'of no kind'!r}, expected one of {', '.join(_FORMATS)}, or one of these with .gz")
    if labelled and suffix == ".txt":
        raise InputError(f"{path}: a .txt file has no labels, expected one of .tsv, .jsonl, .csv")
    found = list(_FORMATS[suffix](path))
    if not found:
        raise InputError(f"{path}: found no text, expected at least one line")
    return found


def _decoded(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line, without its end. Only a newline ends a line, whatever else Unicode calls a line break."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if b"\0" in raw:
                    raise InputError(f"{path}:{number}: found a NUL byte, expected text in UTF-8")
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:{number}: found byte 0x{error.object[error.start]:02x}, expected text in UTF-8") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}:{number + 1}: broken gzip after line {number} ({error})") from None
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror})") from None


def _line(path: Path, number: int, text: object, label: str | None) -> _Line:
    if not isinstance(text, str) or not text.strip():
        found = "no text" if text is None or isinstance(text, str) else f"a text that is {type(text).__name__}"
        raise InputError(f"{path}:{number}: found {found}, expected a text")
    if not encodable(text):
        raise InputError(f"{path}:{number}: found half of a surrogate pair, expected a text")
    return _Line(number, text.strip(), label)


def _txt(path: Path) -> Iterator[_Line]:
    for number, line in _decoded(path):
        if line.strip():
            yield _line(path, number, line, None)


def _tsv(path: Path) -> Iterator[_Line]:
    for number, line in _decoded(path):
        if line.strip():
            label, tab, text = line.partition("\t")
            yield _line(path, number, text, label.strip()) if tab else _line(path, number, line, None)


def _jsonl(path: Path) -> Iterator[_Line]:
    for number, line in _decoded(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not readable as JSON ({error})") from None
        if not isinstance(row, dict) or "text" not in row:
            raise InputError(f'{path}:{number}: found no "text", expected {{"text": ..., "label": ...}}')
        label = row.get("label")
        if label is not None and (isinstance(label, bool) or not isinstance(label, str | int | float)):
            raise InputError(f"{path}:{number}: found a label that is {type(label).__name__}, expected a name or a number")
        yield _line(path, number, row["text"], None if label is None else str(label))


def _csv(path: Path) -> Iterator[_Line]:
    reader = csv.reader((line + "\n" for _, line in _decoded(path)), strict=True)
    start = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        if "text" not in header:
            raise InputError(f"{path}:1: found the columns {', '.join(header) or 'of nothing'}, expected text and perhaps label")
        start = reader.line_num + 1
        for row in reader:
            if row:
                if len(row) != len(header):
                    raise InputError(f"{path}:{start}: found {len(row)} fields, expected {len(header)} as in the header")
                cells = dict(zip(header, row, strict=True))
                yield _line(path, start, cells["text"], cells["label"].strip() if "label" in cells else None)
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{start}: not readable as CSV ({error})") from None


_FORMATS: dict[str, Callable[[Path], Iterator[_Line]]] = {".txt": _txt, ".tsv": _tsv, ".jsonl": _jsonl, ".csv": _csv}
