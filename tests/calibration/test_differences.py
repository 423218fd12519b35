"""How two runs differ, in words."""

from typing import Any

import pytest

from epmq_export.calibration.differences import difference


def inputs(*digests: str) -> list[dict[str, str]]:
    return [
        {"path": name, "sha256": digest} for name, digest in zip(("one", "two", "two"), digests, strict=False)
    ]


BEFORE: dict[str, Any] = {
    "recipe": {"calibration": {"alpha": 0.5, "samples": 16}, "models": ["a", "b"]},
    "inputs": inputs("1", "2", "3"),
    "versions": {"torch": "2.12.0"},
    "device": "cpu",
}


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({}, None),
        (
            {"recipe": {"calibration": {"alpha": 0.25, "samples": 16}, "models": ["a", "b"]}},
            "calibration.alpha was 0.5 and is 0.25 in the recipe",
        ),
        (
            {"recipe": {"calibration": {"samples": 16, "rho": 1}, "models": ["a", "c"]}, "device": "cuda"},
            "calibration.alpha was 0.5 and is not set in the recipe; calibration.rho was not set and is 1 "
            'in the recipe; models[1] was "b" and is "c" in the recipe',
        ),
        ({"inputs": inputs("1", "2", "4")}, "two has changed"),
        ({"inputs": inputs("1", "2")}, "two has changed"),
        ({"inputs": inputs("1")}, "two is gone"),
        ({"inputs": [*BEFORE["inputs"], {"path": "new", "sha256": "5"}]}, "new is new"),
        ({"inputs": inputs("1", "3", "2")}, "the inputs are in another order"),
        ({"versions": {"torch": "2.13.0"}}, 'torch was "2.12.0" and is "2.13.0"'),
        ({"device": "cuda"}, 'device was "cpu" and is "cuda"'),
    ],
)
def test_a_difference_is_named(now: dict[str, Any], told: str | None) -> None:
    assert difference(BEFORE, {**BEFORE, **now}) == told


def test_few_differences_are_told_and_long_values_are_cut() -> None:
    before = {"recipe": {str(number): "x" * 100 for number in range(5)}}
    found = difference(before, {"recipe": {}})
    assert found is not None and found.endswith(" and 2 more") and len(found) < 400


def test_what_the_earlier_run_did_not_record_does_not_count() -> None:
    assert difference({"recipe": {}}, {"recipe": {}, "device": "cpu"}) is None
