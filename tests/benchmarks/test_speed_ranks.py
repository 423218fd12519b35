"""The benchmark of several ranks: its page, and the clock of its stages."""

import itertools
import json

from pytest import approx

from benchmarks import PAGE, RESULTS
from benchmarks.speed.ranks import LAYERS, MARKERS, MEASURED, growth, hours, page
from benchmarks.speed.ranks_worker import REST, Clock
from benchmarks.tables import replaced


def test_the_pages_have_the_tables_of_the_results() -> None:
    found = json.loads((RESULTS / "ranks.json").read_text(encoding="utf-8"))
    told = page(found)
    assert (RESULTS / "ranks.md").read_text(encoding="utf-8") == f"# Several ranks\n\n{told}"
    text = PAGE.read_text(encoding="utf-8")
    assert replaced(text, MARKERS, told, "") == text, "run: python -m benchmarks.speed.ranks"


def test_what_every_rank_does_whole_takes_as_long_on_many_gpus() -> None:
    assert hours({"statistics": 1.0}, 8) == approx(hours({"statistics": 1.0}, 1) / 8)
    assert hours({"factors": 1.0}, 8) == hours({"factors": 1.0}, 1)
    assert hours({"factors": 1.0}, 1) == approx(LAYERS * MEASURED * growth("factors") / 3600)
    # By the widths of both models, 8192 / 4096 and 28672 / 11008, cubed.
    assert 2**3 < growth("factors") < 2.61**3 and growth("statistics") < growth("descent")


def test_a_stage_within_another_counts_for_itself() -> None:
    class Work:
        def outer(self) -> None:
            self.inner()

        def inner(self) -> None:
            next(ticks)

    ticks = itertools.count()
    clock = Clock(lambda: next(ticks))  # Each look at the clock takes a second, and so does the inner work.
    clock.watch("experts", Work, "outer")
    clock.watch("statistics", Work, "inner")
    Work().outer()
    assert {stage: seconds for stage, seconds in clock.seconds.items() if seconds} == {
        REST: 1,
        "experts": 2,
        "statistics": 2,
    }
