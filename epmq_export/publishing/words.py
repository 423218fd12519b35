"""Numbers as the page writes them, in tables and in sentences."""

from epmq_export.publishing.report import Estimate

DROPS = ("accuracy", "rank correlation", "agreement with the expert", "score")
"""The measures whose losses are drops, in points. Distances are written as they are."""


def percent(value: float) -> str:
    """Return a share in percent, without its sign: `92.5`."""
    return signed(f"{100 * value:.1f}")


def points(value: float) -> str:
    """Return a difference with its sign, in points: `+4.5`, `−7.0`, `0.0`."""
    text = signed(f"{100 * value:+.1f}")
    return "0.0" if text[1:] == "0.0" else text


def signed(text: str) -> str:
    """Return a number with the sign that a page sets, and without one for nothing."""
    return text.replace("-0.0", "0.0").replace("-", "−") if text == "-0.0" else text.replace("-", "−")


def amount(measure: str, value: float) -> str:
    """Return a loss in its unit: `2.0 points`, `0.0213`, `0.05 nats`."""
    if measure in DROPS:
        return f"{percent(value)} points"
    return f"{small(value)} nats" if measure == "KL divergence" else small(value)


def bare(measure: str, value: float) -> str:
    """Return a loss without its unit."""
    return percent(value) if measure in DROPS else small(value)


def small(value: float) -> str:
    """Return a number of any size with three digits."""
    return signed(f"{value:.3g}")


def interval(measure: str, estimate: Estimate) -> str:
    """Return an interval of 95 % without its unit."""
    return f"{bare(measure, estimate.low)} to {bare(measure, estimate.high)}"


def size(count: int) -> str:
    """Return a number of bytes as people say it."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"


def duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def several(count: int, word: str) -> str:
    """Return a number with its word: `1 task`, `6 tasks`."""
    return f"{count:,} {word}" + ("" if count == 1 else "s")


def joined(names: list[str]) -> str:
    """Return names as a sentence has them."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
