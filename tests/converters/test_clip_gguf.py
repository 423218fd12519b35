"""CLIP in GGUF: names and keys as clip.cpp reads them, and what it cannot read is refused."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from converters import open_family
from converters.clip import gguf as clip_gguf
from epmq_export.errors import InputError
from epmq_export.verification.probes import hard_pictures
from epmq_export.verification.runtimes.clip_cpp import library as clip_library
from epmq_export.verification.runtimes.clip_cpp.runtime import ClipCpp
from formats.gguf.format import Gguf
from formats.gguf.spec import spec_of
from tests.tiny import clip as tiny_clip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip.clip(tmp_path_factory.mktemp("clip") / "model")


def copied(model: Path, place: Path, file: str, **changed: Any) -> Path:
    """Without weights."""
    place.mkdir()
    for path in model.glob("*.json"):
        (place / path.name).write_bytes(path.read_bytes())
    content = json.loads((place / file).read_text())
    for key, value in changed.items():
        (
            content[key].update(value)
            if isinstance(value, dict) and key.endswith("config")
            else content.update({key: value})
        )
    (place / file).write_text(json.dumps(content))
    return place


def test_every_tensor_but_the_scale_has_a_name(model: Path) -> None:
    family = open_family(model)
    with safe_open(model / "model.safetensors", "pt") as file:
        canonical = {family.canonical(name) for name in file.keys()} - {None}  # noqa: SIM118 (not a mapping)
    spec = spec_of(family)
    assert set(spec.names) | spec.left_out == canonical and spec.left_out == {"logit_scale"}
    assert len(set(spec.names.values())) == len(spec.names) == 397
    assert spec.names["vision_model.encoder.layers.3.mlp.fc1.weight"] == "v.blk.3.ffn_down.weight"
    assert spec.names["text_model.encoder.layers.3.mlp.fc2.bias"] == "t.blk.3.ffn_up.bias"


def test_the_keys_are_the_config_s(model: Path) -> None:
    metadata = spec_of(open_family(model)).metadata
    expected = {
        "clip.has_text_encoder": True,
        "clip.has_vision_encoder": True,
        "clip.use_gelu": False,
        "clip.text.context_length": tiny_clip.CONTEXT,
        "clip.vision.image_size": tiny_clip.SIDE,
        "clip.vision.patch_size": tiny_clip.PATCH,
        "clip.vision.projection_dim": tiny_clip.PROJECTION,
        "clip.text.block_count": 12,
    }
    assert {key: metadata[key] for key in expected} == expected
    tokens = metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    assert [tokens[int(str(metadata[f"tokenizer.ggml.{kind}_token_id"]))] for kind in ("bos", "eos")] == [
        tiny_clip.START,
        tiny_clip.END,
    ]


def test_the_grids_that_are_written_are_those_that_its_ggml_reads() -> None:
    assert {"F16", *clip_gguf.GRIDS} == set(clip_library.TYPES)


def test_layers_that_clip_cpp_does_not_know_are_refused(model: Path, tmp_path: Path) -> None:
    other = copied(model, tmp_path / "model", "config.json", vision_config={"num_hidden_layers": 13})
    with pytest.raises(
        InputError,
        match=r"config\.json: found 12 \+ 13 layers, expected 12 \+ 12, 12 \+ 24, 24 \+ 32 .*leave gguf out",
    ):
        spec_of(open_family(other))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("do_center_crop", False),
        ("resample", 2),
        ("size", {"height": 32, "width": 32}),
        ("rescale_factor", 1.0),
    ],
)
def test_a_processor_that_the_file_cannot_describe_is_refused(
    key: str, value: Any, model: Path, tmp_path: Path
) -> None:
    other = copied(model, tmp_path / "model", "preprocessor_config.json", **{key: value})
    with pytest.raises(
        InputError, match=rf"preprocessor_config\.json: {key} is .*, expected .*leave gguf out"
    ):
        spec_of(open_family(other))


def test_another_number_of_tensors_ends_in_clip_cpp_s_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec(clip_library.MODULE) is None:
        pytest.skip("clip-cpp has wheels for Linux x86-64 only")
    monkeypatch.setattr(clip_gguf, "LAYERS", ((12, 13),))
    packed = tiny_clip.packed(tiny_clip.clip(tmp_path / "model", vision={"num_hidden_layers": 13}))
    path = Gguf().write(packed, open_family(packed.directory), tmp_path)
    with pytest.raises(
        InputError, match=r"model-Q4_0\.gguf: clip\.cpp fails: Unrecognized number of tensors: 413"
    ):
        ClipCpp().outputs(path, hard_pictures()[:1])


def test_an_expert_of_the_image_tower_alone_has_the_base_s_names(model: Path, tmp_path: Path) -> None:
    family = open_family(model)
    found = []
    for prefix in (True, False):
        expert = tiny_clip.vision_expert(tmp_path / str(prefix), model, 1, prefix=prefix)
        with safe_open(expert / "model.safetensors", "pt") as file:
            found.append({family.canonical(name) for name in file.keys()})  # noqa: SIM118 (not a mapping)
    assert found[0] == found[1] and found[0] < set(spec_of(family).names)


def test_a_tokenizer_without_merges_is_refused(tmp_path: Path) -> None:
    directory = tiny_clip.clip(tmp_path / "model")
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["merges"] = []
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=r"model: the tokenizer has no merges, expected"):
        spec_of(open_family(directory))
