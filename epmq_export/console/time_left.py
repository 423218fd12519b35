"""How long the steps of a stage still take, from how long those took that are done."""

SHARE, SECONDS = 0.05, 3.0
"""The share of the steps and the seconds after which the time of a step is known well enough to say it."""

SKIPPED = 0.02
"""The seconds below which a step was none: an interrupted run had done it."""


class TimeLeft:
    """An estimate for one stage, which may count several times: each count is one of its own."""

    def __init__(self) -> None:
        self._total, self._done, self._seconds = 0, 0, 0.0
        self._first, self._began = 0, 0.0

    def told(self, done: int, total: int, seconds: float) -> str:
        """Take notice of a step and return the time left in words, or an empty text where it is not known.

        `seconds` are those since the stage began. The steps that are left are taken to last as long as those
        of this count that were done.
        """
        if (
            total != self._total
            or done < self._done
            or (done > self._done and (seconds - self._seconds) < SKIPPED * (done - self._done))
        ):
            self._first, self._began = done, seconds
        if total != self._total or done != self._done:
            self._total, self._done, self._seconds = total, done, seconds
        # A step that is running says nothing yet of how long it takes.
        counted, took = done - self._first, self._seconds - self._began
        if not total or counted < max(SHARE * total, 1) or took < SECONDS or done >= total:
            return ""
        left = took / counted * (total - done) - (seconds - self._seconds)
        return f"about {_words(max(left, 1.0))} left"


def _words(seconds: float) -> str:
    """Return a time as people say it: `40 s`, `5 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
