"""The data of a task, found by its name: in a folder of that name, or in files that begin with it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from epmq_export.data.pictures import ENDINGS

TEXT_ENDINGS = (".txt", ".tsv", ".csv", ".jsonl", ".parquet")
IMAGE_ENDINGS = (".parquet", ".npz")
_CALIBRATION = ("calibration", "calib", "unlabelled", "unlabeled", "train", "training")
_EVALUATION = ("evaluation", "eval", "test", "testing", "validation", "valid", "val", "dev")
"""What names say of the use of data, the best first."""

_LABELS = "labels"
_CONFIGS = ("config.json", "adapter_config.json")


@dataclass(frozen=True)
class Nearby:
    """What was found of a task's data. A part is None where there is nothing for it."""

    calibration: Path | None = None
    evaluation: Path | None = None
    labels: Path | None = None
    """A JSON file with the text of each label."""


def find_data(name: str, places: Sequence[Path], images: bool) -> Nearby:
    """Return the data of a task, texts or images, from the first of some folders that has any.

    Names decide: `data/NAME.train.txt`, `data/NAME-test.tsv`, `data/NAME/evaluation.csv`. What says no use is
    for calibration; beside such a .txt file a table of the same name is for evaluation.
    """
    for place in places:
        if not place.is_dir():
            continue
        found = _chosen([*_candidates(name, place, images)])
        if found.calibration is not None or found.evaluation is not None:
            return found
    return Nearby()


def _candidates(name: str, place: Path, images: bool) -> Iterator[tuple[str, Path]]:
    """Yield what may be data of a task, with what its name says behind the task's."""
    own = place.name == name
    inside = place / name
    if not own and inside.is_dir() and not _is_model(inside):
        if images and _has_pictures(inside):
            yield "", inside
        yield from _candidates(name, inside, images)
    for path in sorted(place.iterdir()):
        ending = "" if path.is_dir() else Path(path.name.removesuffix(".gz")).suffix.lower()
        stem = path.name.removesuffix(".gz")[: -len(ending) or None]
        said = stem if own else _behind(name, stem)
        if said is None or path == inside or path.name.startswith("."):
            continue
        if path.is_dir():
            if images and not _is_model(path) and _has_pictures(path):
                yield said, path
        elif (said, ending) == (_LABELS, ".json") or ending in (IMAGE_ENDINGS if images else TEXT_ENDINGS):
            yield said, path


def _behind(name: str, stem: str) -> str | None:
    """Return what a file's name says behind that of the task, or None where it begins otherwise."""
    found = re.fullmatch(rf"{re.escape(name)}(?:[._-](.+))?", stem)
    return None if found is None else found[1] or ""


def _chosen(found: Sequence[tuple[str, Path]]) -> Nearby:
    """Return what each of some files is for."""
    calibration, evaluation = (_best(found, words) for words in (_CALIBRATION, _EVALUATION))
    plain = [path for said, path in found if not said]
    labels = next((path for said, path in found if said == _LABELS), None)
    if calibration is None and plain:
        calibration = next((path for path in plain if ".txt" in path.suffixes), plain[0])
    if evaluation is None:
        evaluation = next((path for path in plain if path != calibration and path.is_file()), None)
    if evaluation is None and calibration is not None and calibration.is_dir():
        parts = {path.name for path in calibration.iterdir() if path.is_dir()}
        # A folder with folders of splits is read for both.
        evaluation = calibration if parts & {*_EVALUATION} and parts & {*_CALIBRATION} else None
    return Nearby(calibration, evaluation, labels)


def _best(found: Sequence[tuple[str, Path]], words: Sequence[str]) -> Path | None:
    """Return the first path whose name says one of the words, the best word first."""
    by_word = {said.lower(): path for said, path in reversed(found)}
    return next((by_word[word] for word in words if word in by_word), None)


def _is_model(directory: Path) -> bool:
    return any((directory / name).exists() for name in _CONFIGS)


def _has_pictures(directory: Path) -> bool:
    """Return whether a folder, or a folder in it at two levels, has an image."""
    patterns = ("*", "*/*", "*/*/*")
    return any(path.suffix.lower() in ENDINGS for pattern in patterns for path in directory.glob(pattern))
