"""The nearest valid name, for a sentence about a wrong one."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """`, did you mean 'x'?` where a valid name is near, letter case aside; else nothing."""
    near = _nearest(name, valid)
    return f", did you mean {near!r}?" if near is not None else ""


def near_file(path: Path, written: str) -> str:
    """The same for a missing file, among those that lie where it was looked for; `written` is how the user
    spelled `path`.
    """
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        return ""
    near = _nearest(path.name, names)
    return f", did you mean {written.removesuffix(path.name) + near!r}?" if near is not None else ""


def _nearest(name: str, valid: Iterable[str]) -> str | None:
    by_case = {candidate.lower(): candidate for candidate in valid}
    close = get_close_matches(name.lower(), by_case, n=1, cutoff=0.6)
    return by_case[close[0]] if close else None
