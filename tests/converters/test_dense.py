"""Sentence encoders with Dense modules behind the pooling, as LaBSE has: merged, written and judged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertModel

import epmq_export as epmq
from converters import open_family, require_same_settings
from epmq_export.errors import InputError
from epmq_export.models import reference
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.source import renamed
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from formats.onnx.format import OnnxQdq
from tests.tiny import recipe_project

CPU = torch.device("cpu")
WIDTH, MIDDLE, LAST = 64, 48, 32
TEXTS = [text for _, text in recipe_project.texts(0, 5, seed=7)]


def edit(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def with_dense(directory: Path, seed: int, *more: str) -> Path:
    """Put CLS pooling, two Dense modules and what is `more` behind an encoder."""
    kinds = ("Transformer", "Pooling", "Dense", "Dense", *more)
    entries = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{kind}" if i else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    edit(directory / "modules.json", entries)
    edit(directory / "1_Pooling" / "config.json", {"pooling_mode": "cls"})
    dense(directory / "2_Dense", seed, WIDTH, MIDDLE, "Tanh", bias=True)
    dense(directory / "3_Dense", seed + 1, MIDDLE, LAST, "Identity", bias=False)
    return directory


def dense(folder: Path, seed: int, given: int, made: int, activation: str, *, bias: bool) -> None:
    settings = {"in_features": given, "out_features": made, "bias": bias}
    module = "linear" if activation == "Identity" else "activation"
    edit(
        folder / "config.json", {**settings, "activation_function": f"torch.nn.modules.{module}.{activation}"}
    )
    draw = torch.Generator().manual_seed(seed)
    tensors = {"linear.weight": 0.2 * torch.randn(made, given, generator=draw)}
    if bias:
        tensors["linear.bias"] = torch.randn(made, generator=draw)
    save_file(tensors, folder / "model.safetensors")


@torch.no_grad()
def by_hand(directory: Path) -> NDArray[np.float32]:
    """Return what sentence-transformers gives, text by text."""
    encoder, tokenizer = BertModel.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    first, second = (load_file(directory / name / "model.safetensors") for name in ("2_Dense", "3_Dense"))
    rows = []
    for text in TEXTS:
        row = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 0]
        row = torch.tanh(first["linear.weight"] @ row + first["linear.bias"])
        row = second["linear.weight"] @ row
        rows.append(row / row.norm())
    return torch.stack(rows).numpy()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recipe of a base and an expert, each with Dense modules of its own."""
    folder = tmp_path_factory.mktemp("dense")
    base = recipe_project.base(folder / "base", width=WIDTH, layers=2, pooling="cls")
    recipe_project.full_expert(folder / "expert", base, 1)
    with_dense(base, 5, "Normalize")
    with_dense(folder / "expert", 9, "Normalize")
    recipe_project.data(folder / "data")
    task = {"expert": "./expert", "calibration": "data/0.txt"}
    recipe: dict[str, Any] = {
        "base_model": "./base",
        "merge_method": "linear",
        "tasks": {"a": task},
        "calibration": {"samples": 8},
        "export": {"formats": ["onnx"]},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def out(project: Path) -> Path:
    verdict = epmq.run(project, project.parent / "out")
    assert verdict.passed
    return project.parent / "out"


def test_the_reference_is_sentence_transformers(project: Path) -> None:
    base = project.parent / "base"
    family = open_family(base)
    source = renamed(open_checkpoint(base), family.canonical)
    assert {"2_Dense.linear.weight", "2_Dense.linear.bias", "3_Dense.linear.weight"} <= {*source.names()}
    found = reference.outputs(family, source, TEXTS, CPU)
    assert found.shape == (len(TEXTS), LAST)
    np.testing.assert_allclose(found, by_hand(base), rtol=0, atol=2e-6)


def test_merge_writes_a_directory_that_sentence_transformers_reads(project: Path, tmp_path: Path) -> None:
    merged, base, expert = (
        epmq.merge(project, tmp_path / "merged"),
        project.parent / "base",
        project.parent / "expert",
    )
    assert not any("Dense" in name for name in load_file(merged / "model.safetensors"))
    for name in ("2_Dense", "3_Dense"):
        found, wanted = (load_file(folder / name / "model.safetensors") for folder in (merged, expert))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key]) for key in found)  # the rule is linear, of one expert
        assert (merged / name / "config.json").read_bytes() == (base / name / "config.json").read_bytes()
    family = open_family(merged)
    again = reference.outputs(family, renamed(open_checkpoint(merged), family.canonical), TEXTS, CPU)
    np.testing.assert_allclose(again, by_hand(merged), rtol=0, atol=2e-6)


def test_the_onnx_graph_has_them_and_so_has_its_folder(out: Path) -> None:
    packed = Packed(out / "packed")
    family = open_family(packed.directory)
    path = OnnxQdq().find(out / "onnx", family)
    found = OnnxRuntime().outputs(path, TEXTS, exact=True)
    assert found.shape == (len(TEXTS), LAST)
    np.testing.assert_allclose(found, reference.outputs(family, packed, TEXTS, CPU), rtol=0, atol=2e-5)
    for name in ("2_Dense", "3_Dense"):
        for key, value in load_file(out / "onnx" / name / "model.safetensors").items():
            assert torch.equal(value, packed.load(f"{name}.{key}"))


@pytest.mark.parametrize("how", ["gone", "other"])
def test_verification_reads_the_weights_in_the_folder(how: str, out: Path, tmp_path: Path) -> None:
    packed = Packed(out / "packed")
    family = open_family(packed.directory)
    path = OnnxQdq().write(packed, family, tmp_path / "onnx")
    assert OnnxQdq().open(path, family).differences(packed) == []
    file = tmp_path / "onnx" / "3_Dense" / "model.safetensors"
    if how == "gone":
        file.unlink()
    else:
        save_file({name: 2 * value for name, value in load_file(file).items()}, file)
    (said,) = OnnxQdq().open(path, family).differences(packed)
    assert said.startswith("3_Dense/model.safetensors ")


def test_gguf_alone_refuses_them(project: Path, tmp_path: Path) -> None:
    recipe = {**yaml.safe_load(project.read_text()), "export": {"formats": ["gguf"]}}
    place = project.with_name("gguf.yaml")
    place.write_text(yaml.safe_dump(recipe))
    said = r"base: found the module 2_Dense behind the pooling, expected none: .*; leave gguf out of export"
    with pytest.raises(InputError, match=said):
        epmq.run(place, tmp_path / "out")
    with pytest.raises(InputError, match=said):
        epmq.forecast(place)


def test_an_expert_with_other_modules_is_refused(project: Path, tmp_path: Path) -> None:
    base = project.parent / "base"
    expert = recipe_project.full_expert(tmp_path / "expert", base, 1)
    with_dense(expert, 9)
    with pytest.raises(
        InputError, match=r"Dense \(48 to 32 without a bias, Identity\), expected .*, Normalize"
    ):
        require_same_settings(base, expert, "it")
    with_dense(expert, 9, "Normalize")
    assert require_same_settings(base, expert, "it") == []
    dense(expert / "2_Dense", 9, WIDTH, MIDDLE, "ReLU", bias=True)
    with pytest.raises(InputError, match=r"Dense \(64 to 48, ReLU\).*expected .*Dense \(64 to 48, Tanh\)"):
        require_same_settings(base, expert, "it")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"activation_function": "a.b.Gated"},
            "found activation_function 'a.b.Gated', expected one of torch.nn",
        ),
        ({"in_features": None}, "found in_features None and out_features 48, expected two numbers"),
        (
            {"module_input_name": "token_embeddings"},
            "found module_input_name 'token_embeddings', expected 'sent",
        ),
    ],
)
def test_a_dense_of_another_kind_is_a_sentence(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    base = with_dense(recipe_project.base(tmp_path / "base", width=WIDTH, layers=1), 5)
    path = base / "2_Dense" / "config.json"
    edit(path, {**json.loads(path.read_text()), **changes})
    with pytest.raises(InputError, match=f"^{path}: {said}"):
        open_family(base)


def test_weights_that_are_missing_or_a_pickle_are_named(tmp_path: Path) -> None:
    base = with_dense(recipe_project.base(tmp_path / "base", width=WIDTH, layers=1), 5)
    (base / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"2_Dense/model\.safetensors: no such file, expected the weights"):
        open_checkpoint(base)
    (base / "2_Dense" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(InputError, match=r"2_Dense: pytorch_model\.bin is a pickle"):
        open_checkpoint(base)


def test_an_adapter_with_a_dense_of_its_own_is_refused(project: Path, tmp_path: Path) -> None:
    base, adapter = project.parent / "base", tmp_path / "adapter"
    with_dense(adapter_folder(adapter), 5, "Normalize")
    assert require_same_settings(base, adapter, "it") == []
    with_dense(adapter, 6, "Normalize")
    with pytest.raises(
        InputError, match="found weights of 2_Dense beside an adapter that are not the base's"
    ):
        require_same_settings(base, adapter, "it")


def adapter_folder(place: Path) -> Path:
    place.mkdir()
    edit(place / "adapter_config.json", {"peft_type": "LORA"})
    return place
