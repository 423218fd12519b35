"""ModernBERT as llama.cpp reads it: tokens, windows, and what only ONNX has room for."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from converters import naming, open_family, require_same_settings
from epmq_export.errors import InputError
from epmq_export.models import reference
from epmq_export.models.classifiers import columns_of
from epmq_export.models.family import heads_of
from formats.gguf.spec import spec_of
from tests.tiny import tokenizers as tiny
from tests.tiny.checked_files import require_good_files
from tests.tiny.classifiers import TEXTS, classified, scores
from tests.tiny.encoders import TOKENIZERS, encoder, packed_encoder

WINDOWS = {"sliding_window": 8, "sliding_window_pattern": 3}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoder(tmp_path_factory.mktemp("modernbert") / "model", "modernbert")


def edited(directory: Path, place: Path, **changes: Any) -> Path:
    """Write the model again with changes to its config, without its weights."""
    place.mkdir()
    for path in directory.glob("*.json"):
        (place / path.name).write_bytes(path.read_bytes())
    config = json.loads((directory / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, **changes}))
    return place


def test_llama_cpp_gives_the_same_ids(tmp_path: Path) -> None:
    differing, left_out = tiny.compared(TOKENIZERS["modernbert"](), tmp_path)  # type: ignore[arg-type]
    assert not differing
    assert len(left_out) < 1500  # NFC would change these.


def test_gguf_says_which_tokens_a_layer_looks_at(directory: Path, tmp_path: Path) -> None:
    metadata = spec_of(open_family(directory)).metadata
    assert {key: metadata[f"modern-bert.attention.{key}"] for key in WINDOWS} == WINDOWS
    assert (metadata["modern-bert.rope.freq_base"], metadata["modern-bert.rope.freq_base_swa"]) == (16e4, 1e4)
    everywhere = edited(directory, tmp_path / "everywhere", layer_types=["full_attention"] * 6)
    assert not any("sliding" in key or "swa" in key for key in spec_of(open_family(everywhere)).metadata)


def test_files_on_a_grid_pass_their_checks(directory: Path, tmp_path: Path) -> None:
    """Texts of the checks are longer than the windows, and short ones stand beside them."""
    packed, family = packed_encoder(tmp_path / "packed", directory)
    require_good_files(packed, family, tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm_bias": True}, r"config\.json: found norm_bias true, expected false: .*leave gguf out"),
        (
            {"layer_types": ["sliding_attention", "full_attention"] * 3},
            r"config\.json: found layer_types sliding_attention, .*, expected full_attention in every nth",
        ),
    ],
)
def test_what_llama_cpp_has_not_is_refused_for_gguf_alone(
    directory: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    family = open_family(edited(directory, tmp_path / "model", **changes))
    family.exports["onnx"].require()
    with pytest.raises(InputError, match=said):
        family.exports["gguf"].require()


def test_other_rotations_are_refused(directory: Path, tmp_path: Path) -> None:
    rotations = {"rope_parameters": None, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    with pytest.raises(InputError, match=r"found rope_type 'linear' for \w+, expected 'default'"):
        open_family(edited(directory, tmp_path / "model", **rotations))


def test_a_classifier_that_reads_the_first_token_and_has_biases(tmp_path: Path) -> None:
    """Norms with biases are the encoder's, too, and llama.cpp has no such ones."""
    changes = {"classifier_pooling": "cls", "classifier_bias": True, "norm_bias": True}
    project = classified(tmp_path, "modernbert", **changes)
    family = project.opened.family
    assert {f"classifiers.0.{part}.bias" for part in ("dense", "norm", "out")} <= {*project.opened.frozen}
    for name, columns in columns_of(heads_of(family)).items():
        expert = project.opened.experts[str(project.directory / name)]
        found = reference.outputs(family, expert, TEXTS, torch.device("cpu"))[:, columns]
        expected = scores(project.directory / name, project.base, TEXTS).numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5)
    with pytest.raises(InputError, match="found norm_bias true, expected false"):
        family.exports["gguf"].require()
    edited(project.base, tmp_path / "mean", classifier_pooling="mean")
    with pytest.raises(InputError, match=r"found classifier_pooling 'cls' \(the base: 'mean'\)"):
        require_same_settings(tmp_path / "mean", project.directory / "mood", "mood")


def test_names_of_a_model_with_a_head_are_read(directory: Path) -> None:
    names = naming(directory)
    for plain in ("layers.0.attn.Wqkv.weight", "final_norm.weight", "embeddings.tok_embeddings.weight"):
        assert names.canonical(f"model.{plain}") == names.canonical(plain) == plain
    assert {names.canonical(name) for name in ("head.dense.weight", "classifier.bias", "decoder.bias")} == {
        None
    }
