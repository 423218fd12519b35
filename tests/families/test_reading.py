"""The one way of reading names, of every family: what wrappers, heads and old versions of the library make of
them.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from converters import naming
from epmq_export.errors import InputError
from epmq_export.pipeline.models import require_whole
from epmq_export.tensors.checkpoint import Checkpoint, open_checkpoint
from epmq_export.tensors.compatible import require_fit
from epmq_export.tensors.source import renamed
from tests.families.conftest import Opened

PREFIXES = (
    "_orig_mod.",
    "module.",
    "model.",
    "base_model.model.",
    "0.auto_model.",
    "module._orig_mod.",
    "_orig_mod.model.",
    "student.",
)


def tensors_of(opened: Opened) -> dict[str, Tensor]:
    return load_file(opened.directory / "model.safetensors")


def moved(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an expert."""
    torch.manual_seed(1)
    return {
        name: value + 0.1 * torch.randn_like(value) if value.is_floating_point() else value
        for name, value in tensors.items()
    }


def directory(place: Path, opened: Opened, tensors: Mapping[str, Tensor]) -> Path:
    shutil.copytree(opened.directory, place, ignore=shutil.ignore_patterns("*.safetensors"))
    save_file({name: value.clone() for name, value in tensors.items()}, place / "model.safetensors")
    return place


def expert(opened: Opened, place: Path) -> Checkpoint:
    """Return an expert as it is read beside the base, which it fits."""
    base = open_checkpoint(opened.directory, naming_of=naming)
    found = open_checkpoint(place, base, naming_of=naming)
    require_fit(base, found, "the expert")
    return found


def same(found: Checkpoint, expected: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(found.load(name), expected[name]) for name in found.names())


@pytest.mark.parametrize("prefix", PREFIXES)
def test_an_expert_under_a_wrappers_prefix(opened: Opened, prefix: str, tmp_path: Path) -> None:
    tensors = moved(tensors_of(opened))
    place = directory(tmp_path / "e", opened, {prefix + name: value for name, value in tensors.items()})
    found = expert(opened, place)
    assert found.names() == sorted(tensors) and same(found, tensors)
    # What is no wrapper's is said.
    assert any("student." in note for note in found.notes) == (prefix == "student.")


@pytest.mark.parametrize("prefix", PREFIXES[:-1])
def test_a_base_under_a_wrappers_prefix(opened: Opened, prefix: str, tmp_path: Path) -> None:
    tensors = tensors_of(opened)
    place = directory(tmp_path / "b", opened, {prefix + name: value for name, value in tensors.items()})
    found = open_checkpoint(place, naming_of=naming)
    canonical = opened.family.canonical
    both = all(canonical(f"model.{name}") == canonical(name) for name in tensors)
    if both and prefix.removeprefix("_orig_mod.") == "model.":
        # This stands before the names of its own classes, too: the family knows them with it and without it.
        assert {canonical(name) for name in found.names()} == {canonical(name) for name in tensors}
        tensors = {f"model.{name}": value for name, value in tensors.items()}
    assert found.names() == sorted(tensors) and same(found, tensors)


def test_a_wrapper_within_names(opened: Opened, tmp_path: Path) -> None:
    """Read names as torch.compile leaves them where each layer is compiled by itself."""
    tensors = moved(tensors_of(opened))
    wrapped = {name.replace(".0.", ".0._orig_mod."): value for name, value in tensors.items()}
    assert wrapped.keys() != tensors.keys()
    found = expert(opened, directory(tmp_path / "e", opened, wrapped))
    assert found.names() == sorted(tensors) and same(found, tensors)


def test_a_head_of_a_task_is_left_out_and_said(opened: Opened, tmp_path: Path) -> None:
    tensors = moved(tensors_of(opened))
    more = {"classifier.weight": torch.ones(3, 8), "classifier.bias": torch.ones(3)}
    found = expert(opened, directory(tmp_path / "e", opened, {**tensors, **more}))
    assert found.names() == sorted(tensors) and same(found, tensors)
    assert any("classifier.bias (2 such tensors) is of no part of the base" in note for note in found.notes)


def test_tables_of_rotations_that_old_versions_stored(opened: Opened, tmp_path: Path) -> None:
    tensors = moved(tensors_of(opened))
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    found = expert(opened, directory(tmp_path / "e", opened, {**tensors, **buffers}))
    assert found.names() == sorted(tensors) and same(found, tensors) and not found.notes


def test_two_models_in_one_file_are_refused_by_both_names(opened: Opened, tmp_path: Path) -> None:
    tensors = tensors_of(opened)
    both = {first + name: value for name, value in tensors.items() for first in ("one.", "two.")}
    place = directory(tmp_path / "e", opened, both)
    with pytest.raises(InputError, match=r"fit the base with names that begin with 'one\.' and 'two\.'"):
        expert(opened, place)


def test_an_equal_head_that_is_stored_on_one_side_only(opened: Opened, tmp_path: Path) -> None:
    ties = naming(opened.directory).ties
    if ties is None or not ties.tied:
        return
    tensors = tensors_of(opened)
    head = tensors[ties.embeddings[0]].clone()
    base = directory(tmp_path / "base", opened, {**tensors, ties.head: head})
    assert open_checkpoint(base, naming_of=naming).names() == sorted(tensors)
    found = expert(opened, directory(tmp_path / "e", opened, {**tensors, ties.head: head}))
    assert found.names() == sorted(tensors) and same(found, tensors)
    own = directory(tmp_path / "own", opened, {**tensors, ties.head: head + 1})
    assert ties.head in open_checkpoint(own, naming_of=naming).names()


def test_an_expert_whose_head_is_its_embeddings_has_that_head(opened: Opened, tmp_path: Path) -> None:
    """The base has a head of its own."""
    ties = naming(opened.directory).ties
    if ties is None or ties.tied:
        return
    tensors = moved(tensors_of(opened))
    head = tensors.pop(ties.head)
    place = directory(tmp_path / "e", opened, tensors)
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    found = expert(opened, place)
    assert torch.equal(found.load(ties.head), tensors[ties.embeddings[0]])
    assert not torch.equal(found.load(ties.head), head)


def test_norms_by_the_names_that_tensorflow_gave_them(opened: Opened, tmp_path: Path) -> None:
    """The first BERT on the hub has them so."""
    tensors = moved(tensors_of(opened))
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    place = directory(tmp_path / "e", opened, old)
    assert same(expert(opened, place), tensors)
    assert open_checkpoint(place, naming_of=naming).names() == sorted(tensors)


def test_a_base_that_is_not_whole_is_blamed_itself(opened: Opened, tmp_path: Path) -> None:
    tensors = tensors_of(opened)
    name = max(each for each in tensors if opened.family.canonical(each) and "layer" in each)
    del tensors[name]
    stored = open_checkpoint(directory(tmp_path / "b", opened, tensors), naming_of=naming)
    with pytest.raises(InputError, match=r"b: found none for the shape of tensor .*: the base is not whole"):
        require_whole(stored, renamed(stored, opened.family.canonical), opened.family)
    require_whole(open_checkpoint(opened.directory, naming_of=naming), opened.source, opened.family)
