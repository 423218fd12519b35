"""`epmq inspect` as users run it."""

import json
from pathlib import Path

import pytest

from epmq_export.models.family import Family
from epmq_export.tensors.packed import Packed
from formats.gguf.format import Gguf
from formats.gguf.spec import spec_of
from tests.command_line.command import Warm
from tests.tiny.bert import small_bert, small_packed

INDEX: dict[str, object] = {
    "recipe": {"merge_method": "ties", "tasks": {"sst2": {"labels": ["[bold]no[/bold]", "yes"]}}},
    "inputs": [{"path": "base/model.safetensors", "sha256": "0123456789abcdef" * 4}],
    "method": {"name": "rtn", "alpha": 0.5},
    "versions": {"torch": "2"},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Packed, Family]:
    place = tmp_path_factory.mktemp("small")
    return small_packed(place / "packed", small_bert(place / "model"), index=INDEX)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, small: tuple[Packed, Family]) -> Path:
    return Gguf().write(*small, tmp_path_factory.mktemp("written"))


def test_for_people_in_80_columns(written: Path, epmq: Warm, tmp_path: Path) -> None:
    done = epmq("inspect", written, folder=tmp_path, COLUMNS=None)
    assert (done.code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines[1:])  # the first is the path
    text = "\n".join(" ".join(line.split()) for line in lines)
    assert lines[0] == f"gguf {written}"
    assert "- '[bold]no[/bold]'" in text
    assert "inputs 0123456789ab… base/model.safetensors" in text
    assert "method name rtn, alpha 0.5" in text
    assert "blk.{0-1}.attn_q.weight 2 Q4_0 64×64 4,608 4.5" in text
    assert "general.architecture bert" in text and "items: [PAD], [UNK]" in text
    assert "Q4_0 12" in text and "all 37" in text
    assert "epmq.recipe" not in text  # told above, not twice


def test_json_is_one_whole_document(
    written: Path, small: tuple[Packed, Family], epmq: Warm, tmp_path: Path
) -> None:
    done = epmq("inspect", "--json", written, folder=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    told = done.json
    assert set(told) == {"kind", "path", "provenance", "metadata", "tensors", "types", "total"}
    assert told["provenance"] == INDEX
    assert json.loads(told["metadata"]["epmq.recipe"]) == INDEX["recipe"]
    assert len(told["metadata"]["tokenizer.ggml.tokens"]) == len(
        spec_of(small[1]).metadata["tokenizer.ggml.tokens"]
    )  # type: ignore[arg-type]
    assert len(told["tensors"]) == told["total"]["tensors"] == 37
    assert told["types"]["Q4_0"]["bits_per_weight"] == 4.5


def test_a_packed_checkpoint(small: tuple[Packed, Family], epmq: Warm, tmp_path: Path) -> None:
    told = epmq("inspect", small[0].directory, "--json", folder=tmp_path).json
    assert told["kind"] == "packed checkpoint" and told["provenance"] == INDEX


def test_a_wrong_file_is_one_sentence(epmq: Warm, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_text("no model")
    for arguments in (("inspect", path), ("inspect", "--json", path)):
        done = epmq(*arguments, folder=tmp_path)
        assert (done.code, done.stdout) == (3, "")
        assert done.stderr == f"error: {path}: begins with b'no m', expected b'GGUF': it is no GGUF file\n"
