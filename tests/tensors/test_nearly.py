"""Directories and files that are nearly models: the sentence says what they are, and what to give instead."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import epmq_export as epmq
from converters import open_family
from epmq_export.errors import InputError
from epmq_export.tensors.checkpoint import open_checkpoint
from tests.tiny.bert import small_bert

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def model(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    save_file({"a.weight": torch.ones(2, 2)}, directory / "model.safetensors")
    (directory / "config.json").write_text('{"model_type": "bert"}')
    return directory


def touch(directory: Path, *names: str) -> Path:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text("{}")
    return directory


def trainers_folder(place: Path) -> str:
    for step in (500, 1500, 1000):
        model(place / f"checkpoint-{step}")
    touch(place, "training_args.bin", "trainer_state.json")
    return r"it is a trainer's folder of checkpoints: give one of them, such as the last, .*checkpoint-1500$"


def hub_folder(place: Path) -> str:
    folder = place / "models--org--name"
    model(folder / "snapshots" / "0123")
    touch(folder, "refs/main", "blobs/abc")
    return r"it is a folder of the hub's cache: give the hub id 'org/name' or .*snapshots/0123$"


def hub_cache(place: Path) -> str:
    hub_folder(place)
    return r"it is the hub's cache: give the hub id of a model in it, such as 'org/name'$"


def nested(place: Path) -> str:
    model(place / "0_Transformer")
    touch(place, "modules.json", "1_Pooling/config.json")
    return r"a model is in .*0_Transformer: give that$"


def nested_twice(place: Path) -> str:
    model(place / "out" / "merged")
    return r"a model is in .*out/merged: give that$"


def several(place: Path) -> str:
    for name in ("a", "b"):
        touch(place, f"{name}/adapter_config.json", f"{name}/adapter_model.safetensors")
    return r"2 models are in it: give one of them, such as .*a$"


def shards(place: Path) -> str:
    touch(place, "config.json", "model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors")
    return r"it has 2 of 3 shards .*, but not their index: .*model\.safetensors\.index\.json"


def deepspeed(place: Path) -> str:
    touch(place, "zero_to_fp32.py", "global_step100/mp_rank_00_model_states.pt", "latest", "config.json")
    return r"it is a checkpoint in parts of DeepSpeed, whose zero_to_fp32\.py"


def fsdp(place: Path) -> str:
    touch(place, "pytorch_model_fsdp_0/__0_0.distcp", "optimizer.pt")
    return r"it is a checkpoint in parts of FSDP, of which `accelerate merge-weights`"


def a_gguf(place: Path) -> str:
    touch(place, "model-q4.gguf", "README.md")
    return r"it holds a GGUF file: give that, .*model-q4\.gguf$"


def another_name(place: Path) -> str:
    touch(place, "config.json", "pytorch_model.safetensors")
    return r"it has weights of another name, pytorch_model\.safetensors: .* model\.safetensors$"


def of_tensorflow(place: Path) -> str:
    touch(place, "config.json", "tf_model.h5")
    return r"it has weights of TensorFlow, tf_model\.h5"


def an_output(place: Path) -> str:
    touch(place, "packed/packed.json", "gguf/model.gguf", "report.json")
    return r"it is an output of epmq, whose weights are rounded already"


def a_config_alone(place: Path) -> str:
    touch(place, "config.json", "tokenizer.json")
    return r"it has a config\.json alone: its weights have not been copied or downloaded$"


KINDS: Sequence[Callable[[Path], str]] = (
    trainers_folder,
    hub_cache,
    nested,
    nested_twice,
    several,
    shards,
    deepspeed,
    fsdp,
    a_gguf,
    another_name,
    of_tensorflow,
    an_output,
    a_config_alone,
)


def sentence(place: Path) -> str:
    with pytest.raises(InputError) as error:
        open_checkpoint(place)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_told_what_a_directory_looks_like(kind: Callable[[Path], str], tmp_path: Path) -> None:
    assert re.search(f"^{tmp_path}: found no weights of a model: {kind(tmp_path)}", sentence(tmp_path))


@pytest.mark.parametrize("within", [".", "snapshots", "refs", "blobs"])
def test_a_folder_of_the_hubs_cache_and_those_within_it(within: str, tmp_path: Path) -> None:
    expected = hub_folder(tmp_path)
    assert re.search(expected, sentence(tmp_path / "models--org--name" / within))


def test_a_dry_run_asks_for_the_config_and_is_told_the_same(tmp_path: Path) -> None:
    expected = trainers_folder(tmp_path)
    with pytest.raises(InputError, match=f"is no model directory: {expected}"):
        open_family(tmp_path)


def test_weights_of_a_file_are_those_of_its_directory(tmp_path: Path) -> None:
    path = model(tmp_path / "one") / "model.safetensors"
    assert f"such as the one that it lies in, {tmp_path / 'one'}," in sentence(path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pointer_of_git_lfs(name: str, tmp_path: Path) -> None:
    (model(tmp_path) / name).write_text(POINTER)
    assert re.search(rf"{re.escape(name)}: .*it is a Git LFS pointer, .*`git lfs pull`", sentence(tmp_path))


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt"])
def test_a_tokenizer_that_is_a_pointer(name: str, tmp_path: Path) -> None:
    directory = small_bert(tmp_path / "model")
    (directory / "tokenizer.json").unlink()
    (directory / name).write_text(POINTER)
    with pytest.raises(InputError, match=rf"{re.escape(name)}: .*it is a Git LFS pointer"):
        open_family(directory)


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf"])
def test_inspect_knows_a_pointer_too(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(InputError, match="it is a Git LFS pointer"):
        epmq.inspect(tmp_path / name)
