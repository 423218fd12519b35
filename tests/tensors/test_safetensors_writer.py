"""Files that are written one tensor at a time, with the bytes of the library."""

import resource
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from epmq_export.errors import InputError, OutputError
from epmq_export.tensors.safetensors_file import DTYPES
from epmq_export.tensors.safetensors_writer import bytes_of, write_one_by_one
from tests.tiny.in_memory import InMemory, LiveBytes

names = st.text(min_size=1, max_size=6).filter(lambda name: name != "__metadata__")
kinds = st.tuples(st.sampled_from([*DTYPES.values()]), st.lists(st.integers(0, 3), max_size=3))


@settings(max_examples=40)
@given(st.dictionaries(names, kinds, max_size=8), st.one_of(st.none(), names))
def test_the_bytes_are_those_of_the_library(
    tmp_path_factory: pytest.TempPathFactory,
    layout: dict[str, tuple[torch.dtype, list[int]]],
    told: str | None,
) -> None:
    folder = tmp_path_factory.mktemp("written")
    tensors = {
        name: (torch.arange(torch.Size(shape).numel()) % 2).reshape(shape).to(dtype)
        for name, (dtype, shape) in layout.items()
    }
    metadata = None if told is None else {told: "\x7f\x00é"}
    write_one_by_one(folder / "ours", InMemory(tensors), [*tensors], metadata)
    save_file(tensors, folder / "theirs", metadata)
    assert (folder / "ours").read_bytes() == (folder / "theirs").read_bytes()


def test_some_tensors_under_shorter_names(tmp_path: Path) -> None:
    source = InMemory({"in.b": torch.ones(2, 3).T, "in.a": torch.ones(2).half(), "out.a": torch.ones(1)})
    write_one_by_one(tmp_path / "ours", source, ["in.b", "in.a"], before="in.")
    save_file({"a": torch.ones(2).half(), "b": torch.ones(3, 2)}, tmp_path / "theirs")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert bytes_of(source, "in.b") == 24 and bytes_of(source, "in.a") == 4


def test_only_two_of_them_are_in_memory(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        source = InMemory({str(number): torch.ones(1000, 10) for number in range(count)})
        with LiveBytes() as gauge:
            write_one_by_one(tmp_path / "file", source, source.names())
        return gauge.peak

    assert 40_000 <= peak(2) == peak(12) < 3 * 40_000


@pytest.mark.parametrize("limit", [0, 100, 3000])
def test_a_disk_that_takes_no_more_is_one_sentence(tmp_path: Path, limit: int) -> None:
    """It stops in the header, in a tensor that is not the last one, and in the last one."""
    source = InMemory({"a": torch.ones(500), "b": torch.ones(500)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(OutputError, match=r"/file: cannot be written \(File too large\)$"):
            write_one_by_one(tmp_path / "file", source, ["a", "b"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_source_that_breaks_off_is_the_error(tmp_path: Path) -> None:
    class Broken(InMemory):
        def load(self, name: str) -> torch.Tensor:
            if name == "b":
                raise InputError("tensor b cannot be read")
            return super().load(name)

    with pytest.raises(InputError, match=r"^tensor b cannot be read$"):
        write_one_by_one(tmp_path / "file", Broken({"a": torch.ones(2), "b": torch.ones(2)}), ["a", "b"])
