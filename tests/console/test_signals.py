"""An interrupt that gets lost on its way comes again, and one that arrives does not."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from epmq_export.console import signals
from epmq_export.console.signals import Interruption

SOON = 0.05


@pytest.fixture
def interruption(monkeypatch: pytest.MonkeyPatch) -> Iterator[Interruption]:
    """Listen as a command does, and ask after a twentieth of a second."""
    monkeypatch.setattr(signals, "_ECHO", SOON)
    before = {number: signal.getsignal(number) for number in signals._ENDING}
    for number in before:
        signal.signal(number, signal.SIG_DFL)
    listening = Interruption()
    yield listening
    listening.end()
    time.sleep(2 * SOON)
    for number, handler in before.items():
        signal.signal(number, handler)


def wait(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.001)


class Dying:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def die() -> None:
    dying = Dying()
    del dying  # Python ignores what this raises.


def drop() -> None:
    with suppress(BaseException):
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("lose", [die, drop])
def test_what_gets_lost_comes_again(
    lose: Any, interruption: Interruption, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: ignored.append(told.exc_type))
    with pytest.raises(KeyboardInterrupt):
        lose()
        wait(10)
    assert ignored == ([KeyboardInterrupt] if lose is die else [])
    assert interruption.code == 143 and "by SIGTERM" in interruption.sentence


def test_what_clears_up_is_left_in_peace(interruption: Interruption) -> None:
    cleared = []
    with pytest.raises(KeyboardInterrupt):
        try:
            signal.raise_signal(signal.SIGHUP)
        finally:
            wait(6 * SOON)
            cleared.append(True)
            interruption.end()
    wait(3 * SOON)
    assert cleared == [True] and interruption.code == 129


def test_the_echo_of_a_signal_is_none(interruption: Interruption, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_ECHO", 60.0)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    signal.raise_signal(signal.SIGINT)
    interruption.end()
    assert interruption.code == 130 and interruption.sentence.startswith("interrupted; ")
