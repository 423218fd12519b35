"""The merge as a directory that transformers loads."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, BertModel

from epmq_export.errors import InputError
from epmq_export.files import sha256
from epmq_export.merging.hf_directory import model_card, write_merged
from epmq_export.merging.merged import merged
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.safetensors_file import DTYPES
from tests.tiny.in_memory import InMemory, LiveBytes
from tests.tiny.merges import settings_of

CARD = model_card("owner/base", ["owner/one", "./local/two"], "ties", "merge_method: ties\n")


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """A small BERT, its config saying a dtype, with the files that travel with it and one that does not."""
    directory = tmp_path / "base"
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
    )
    BertModel(config).save_pretrained(directory)
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text("{}")
    (directory / "vocab.txt").write_text("a\nb\n")
    (directory / "training_args.bin").write_bytes(b"no companion")
    return directory


def digests(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): sha256(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_one_file_that_transformers_reads(model_dir: Path, tmp_path: Path) -> None:
    base = open_checkpoint(model_dir)
    write_merged(tmp_path / "out", base, model_dir, CARD)
    assert set(digests(tmp_path / "out")) == {
        "README.md",
        "config.json",
        "model.safetensors",
        "vocab.txt",
        "1_Pooling/config.json",
    }
    loaded = BertModel.from_pretrained(tmp_path / "out").state_dict()
    for name in base.names():
        assert torch.equal(loaded[name], base.load(name))


def test_shards_with_their_index(model_dir: Path, tmp_path: Path) -> None:
    base, out = open_checkpoint(model_dir), tmp_path / "out"
    write_merged(out, base, model_dir, CARD, shard_bytes=6000)
    shards = sorted(out.glob("*.safetensors"))
    assert len(shards) > 2 and shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for shard in shards for tensor in load_file(shard).values()
    )
    for shard in shards:
        held = load_file(shard)
        assert sum(tensor.nbytes for tensor in held.values()) <= 6000
        assert all(index["weight_map"][name] == shard.name for name in held)
    again = open_checkpoint(out)
    assert again.names() == base.names() and all(
        torch.equal(again.load(name), base.load(name)) for name in base.names()
    )
    loaded = BertModel.from_pretrained(out).state_dict()
    assert all(torch.equal(loaded[name], base.load(name)) for name in base.names())


def test_a_tensor_larger_than_a_shard_has_its_own(model_dir: Path, tmp_path: Path) -> None:
    source = InMemory({"a": torch.ones(4), "b": torch.ones(100), "c": torch.ones(4)})
    write_merged(tmp_path / "out", source, model_dir, CARD, shard_bytes=64)
    assert [list(load_file(shard)) for shard in sorted((tmp_path / "out").glob("*.safetensors"))] == [
        ["a"],
        ["b"],
        ["c"],
    ]


def test_the_same_again_is_byte_identical(model_dir: Path, tmp_path: Path) -> None:
    for out in ("one", "two"):
        base = open_checkpoint(model_dir)
        source = merged(base, [open_checkpoint(model_dir)], settings_of("ties", {}, [("expert", {})]))
        write_merged(tmp_path / out, source, model_dir, CARD, shard_bytes=6000)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_another_dtype_is_written_and_said(model_dir: Path, tmp_path: Path) -> None:
    base = open_checkpoint(model_dir)
    source = merged(base, [base], settings_of("linear", {}, [("expert", {})]), torch.bfloat16)
    write_merged(tmp_path / "out", source, model_dir, CARD)
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {
        torch.bfloat16
    }
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert BertModel.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=6).filter(lambda name: name != "__metadata__" and name.isprintable()),
        st.tuples(st.lists(st.integers(0, 3), max_size=3), st.sampled_from(list(DTYPES.values()))),
        min_size=1,
        max_size=6,
    )
)
def test_every_shape_dtype_and_name_survives(
    tmp_path_factory: pytest.TempPathFactory, layout: dict[str, tuple[list[int], torch.dtype]]
) -> None:
    directory = tmp_path_factory.mktemp("layout")
    tensors = {
        name: (torch.arange(torch.Size(shape).numel()) % 2).reshape(shape).to(dtype)
        for name, (shape, dtype) in layout.items()
    }
    write_merged(directory / "out", InMemory(tensors), directory, CARD)
    written = (directory / "out" / "model.safetensors").read_bytes()
    length = int.from_bytes(written[:8], "little")
    header = json.loads(written[8 : 8 + length])
    for name, tensor in tensors.items():  # aligned, so that readers may map it
        assert (8 + length + header[name]["data_offsets"][0]) % tensor.itemsize == 0
    with safe_open(directory / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(tensors)
        for name, tensor in tensors.items():
            assert file.get_tensor(name).dtype == tensor.dtype and torch.equal(file.get_tensor(name), tensor)


def test_memory_does_not_grow_with_the_size_of_a_shard(model_dir: Path, tmp_path: Path) -> None:
    def peak(count: int) -> int:
        source = InMemory({f"layer.{number}.weight": torch.ones(10_000) for number in range(count)})
        with LiveBytes() as gauge:
            write_merged(tmp_path / str(count), source, model_dir, CARD)
        return gauge.peak

    assert 40_000 <= peak(2) == peak(12) < 3 * 40_000


class Failing(InMemory):
    """Gives its first tensors and then breaks, as a file that is cut while it is read."""

    def load(self, name: str) -> Tensor:
        if name == "c":
            raise InputError("tensor c cannot be read")
        return super().load(name)


def test_nothing_half_written_stays_and_the_old_one_does(model_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "results" / "out"
    source = Failing({name: torch.ones(8) for name in "abc"})
    with pytest.raises(InputError):
        write_merged(out, source, model_dir, CARD, shard_bytes=32)
    assert not out.parent.exists()
    write_merged(out, open_checkpoint(model_dir), model_dir, CARD)
    before = digests(out)
    with pytest.raises(InputError):
        write_merged(out, source, model_dir, CARD, shard_bytes=32)
    assert digests(out) == before and list(out.parent.iterdir()) == [out]


def test_a_source_that_lies_about_a_tensor_is_refused(model_dir: Path, tmp_path: Path) -> None:
    class Lying(InMemory):
        def load(self, name: str) -> Tensor:
            return super().load(name).half()

    with pytest.raises(
        InputError, match=r"tensor w: loaded torch\.float16 \[2\], expected torch\.float32 \[2\]"
    ):
        write_merged(tmp_path / "out", Lying({"w": torch.ones(2)}), model_dir, CARD)


def test_the_card_has_front_matter_and_the_recipe() -> None:
    _, front, body = CARD.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": ["owner/base", "owner/one"],
        "library_name": "transformers",
        "tags": ["merge", "epmq-export"],
    }
    assert "```yaml\nmerge_method: ties\n```" in body and "- ./local/two" in body
    local = model_card("./base", ["./one"], "linear", "a: '```'")
    assert "base_model" not in yaml.safe_load(local.split("---\n", 2)[1])
    assert "````yaml\na: '```'\n````" in local
