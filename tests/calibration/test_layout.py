import torch

from epmq_export.calibration.layout import Layout, storage_name
from epmq_export.grids import GRIDS


def test_what_is_asked_is_given_without_a_word() -> None:
    layout = Layout("Q4_0", "F16")
    assert layout.linear("a.weight", (8, 64)) == (GRIDS["Q4_0"], None)
    assert layout.embedding("e.weight", (100, 30)) == (torch.float16, None)
    assert Layout(embeddings="Q8_0").embedding("e.weight", (100, 64)) == (GRIDS["Q8_0"], None)
    assert Layout("F32").linear("a.weight", (8, 30)) == (torch.float32, None)


def test_what_does_not_divide_into_groups_is_named() -> None:
    storage, note = Layout("Q4_0").linear("a.weight", (64, 48))
    assert storage == torch.float16 and note == "a.weight is stored F16: its 48 inputs are no multiple of Q4_0's group of 32"
    storage, note = Layout(embeddings="Q8_0").embedding("e.weight", (64, 33))
    assert storage == torch.float16 and note is not None and note.startswith("e.weight is stored F16")


def test_patterns_keep_linears_and_say_which_one_did() -> None:
    layout = Layout("Q4_0", "Q4_0", keep=("*.query.weight", "encoder.layer.[01].*"))
    assert layout.linear("encoder.layer.5.query.weight", (64, 64)) == (torch.float16, "encoder.layer.5.query.weight stays F16, as '*.query.weight' asks")
    assert layout.linear("encoder.layer.1.output.weight", (64, 64))[0] == torch.float16
    assert layout.linear("encoder.layer.2.output.weight", (64, 64)) == (GRIDS["Q4_0"], None)
    assert layout.linear("Encoder.layer.1.output.weight", (64, 64))[0] == GRIDS["Q4_0"]  # case counts
    assert layout.embedding("encoder.layer.1.query.weight", (64, 64)) == (GRIDS["Q4_0"], None)  # embeddings have their own setting


def test_names() -> None:
    assert [storage_name(storage) for storage in (GRIDS["Q4_0"], GRIDS["Q8_0"], torch.float16, torch.float32)] == ["Q4_0", "Q8_0", "F16", "F32"]
