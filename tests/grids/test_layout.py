"""Which tensor is stored on which grid, and how that is told."""

import torch

from epmq_export.grids import FALLBACK, GRIDS
from epmq_export.grids.layout import Layout, storage_name


def test_what_is_asked_is_given_without_a_word() -> None:
    layout = Layout("Q4_0", "F16")
    assert layout.linear("a.weight", (8, 64)) == (GRIDS["Q4_0"], None)
    assert layout.embedding("e.weight", (100, 30)) == (torch.float16, None)
    assert Layout(embeddings="Q8_0").embedding("e.weight", (100, 64)) == (GRIDS["Q8_0"], None)
    assert Layout("F32").linear("a.weight", (8, 30)) == (torch.float32, None)


def test_what_does_not_divide_into_groups_is_named() -> None:
    storage, note = Layout("Q4_0").linear("a.weight", (64, 48))
    assert (
        storage == torch.float16
        and note == "a.weight is stored F16: its 48 inputs are no multiple of Q4_0's group of 32"
    )
    storage, note = Layout(embeddings="Q8_0").embedding("e.weight", (64, 33))
    assert storage == torch.float16 and note is not None and note.startswith("e.weight is stored F16")


def test_the_first_pattern_that_matches_decides_and_is_named() -> None:
    layout = Layout("Q4_0", "Q4_0", {"*.query.weight": "F16", "encoder.layer.[01].*": "F32"})
    assert layout.linear("encoder.layer.5.query.weight", (64, 64)) == (
        torch.float16,
        "encoder.layer.5.query.weight stays F16, as '*.query.weight' asks",
    )
    assert layout.linear("encoder.layer.1.output.weight", (64, 64))[0] == torch.float32
    assert layout.linear("encoder.layer.2.output.weight", (64, 64)) == (GRIDS["Q4_0"], None)
    assert layout.linear("Encoder.layer.1.output.weight", (64, 64))[0] == GRIDS["Q4_0"]  # case counts
    assert layout.embedding("encoder.layer.1.query.weight", (64, 64)) == (
        GRIDS["Q4_0"],
        None,
    )  # embeddings have their own setting


def test_names() -> None:
    assert [
        storage_name(storage) for storage in (GRIDS["Q4_0"], GRIDS["Q8_0"], torch.float16, torch.float32)
    ] == ["Q4_0", "Q8_0", "F16", "F32"]


def test_a_pattern_gives_a_linear_a_grid_of_its_own() -> None:
    layout = Layout("Q4_0", overrides={"*.value.weight": "Q8_0", "*.output.*": "Q4_K"})
    assert layout.linear("a.value.weight", (64, 64)) == (
        GRIDS["Q8_0"],
        "a.value.weight is stored on Q8_0, as '*.value.weight' asks",
    )
    assert layout.linear("a.output.weight", (64, 512)) == (
        GRIDS["Q4_K"],
        "a.output.weight is stored on Q4_K, as '*.output.*' asks",
    )
    assert layout.linear("a.output.weight", (64, 64)) == (
        GRIDS["IQ4_NL"],
        "a.output.weight is stored on IQ4_NL: its 64 inputs are no multiple of Q4_K's group of 256",
    )


def test_what_does_not_fit_takes_the_next_grid_and_is_named() -> None:
    assert Layout("Q4_K").linear("a.weight", (8, 384)) == (
        GRIDS["IQ4_NL"],
        "a.weight is stored on IQ4_NL: its 384 inputs are no multiple of Q4_K's group of 256",
    )
    assert Layout("Q6_K").linear("a.weight", (8, 384))[0] == GRIDS["Q8_0"]
    assert Layout("Q2_0").linear("a.weight", (8, 384)) == (GRIDS["Q2_0"], None)
    assert Layout("Q2_0").linear("a.weight", (8, 96)) == (
        GRIDS["Q4_0"],
        "a.weight is stored on Q4_0: its 96 inputs are no multiple of Q2_0's group of 64",
    )
    assert Layout("Q4_K").linear("a.weight", (8, 1536)) == (GRIDS["Q4_K"], None)
    assert Layout("Q2_K").linear("a.weight", (8, 40)) == (
        torch.float16,
        "a.weight is stored F16: its 40 inputs are no multiple of Q2_K's group of 256",
    )
    for asked, found in FALLBACK.items():
        assert GRIDS[found].group < GRIDS[asked].group and GRIDS[found].bits >= GRIDS[asked].bits


def test_some_names_are_replaced_by_others() -> None:
    layout = Layout("Q4_K", "Q8_0", {"*": "IQ4_NL", "a": "F16"})
    assert layout.names == ["Q4_K", "Q8_0", "IQ4_NL", "F16"]
    assert layout.replaced({"Q4_K": "Q4_0", "IQ4_NL": "Q4_0"}) == Layout(
        "Q4_0", "Q8_0", {"*": "Q4_0", "a": "F16"}
    )
