"""The nearest valid name, for a sentence about a wrong one."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """`, did you mean 'x'?` where a valid name is near, letter case aside; else nothing."""
    by_case = {candidate.lower(): candidate for candidate in valid}
    close = get_close_matches(name.lower(), by_case, n=1, cutoff=0.6)
    return f", did you mean {by_case[close[0]]!r}?" if close else ""
