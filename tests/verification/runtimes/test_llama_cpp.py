"""llama.cpp on written files: it computes what PyTorch does, and what is wrong ends in one sentence."""

import os
import re
import struct
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray
from safetensors.torch import load_file

from converters import open_family
from epmq_export.errors import InputError, MissingRuntime
from epmq_export.grids import GRIDS
from epmq_export.models.family import Family
from epmq_export.models.hard_texts import HARD_TEXTS
from epmq_export.tensors import packed_writer as packing
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.verification.runtimes.llama_cpp import ggml as ggml_types
from epmq_export.verification.runtimes.llama_cpp import library
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from formats.gguf.blocks import encode
from formats.gguf.format import Gguf
from tests import ROOT
from tests.tiny.bert import small_bert, small_packed
from tests.tiny.gguf_edits import edited, token_at, value_at
from tests.tiny.grid_points import random_point
from tests.tiny.packed_index import an_index

GOOD = "the weather is good"


def twin_of(path: Path, family: Family, folder: Path) -> Path:
    return Gguf().open(path, family).exact(path, folder)


@pytest.fixture(scope="module")
def minilm_packed(minilm_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Packed, Family]:
    """all-MiniLM-L6-v2: linears rounded to Q4_0, word embeddings F16, the rest F32."""
    family = open_family(minilm_directory)
    tensors: dict[str, PackedTensor | torch.Tensor] = {}
    for stored, value in load_file(minilm_directory / "model.safetensors").items():
        name = family.canonical(stored)
        if name is None:
            continue
        if value.ndim == 2 and name.startswith("encoder"):
            tensors[name] = PackedTensor(GRIDS["Q4_0"], *GRIDS["Q4_0"].quantise(value))
        else:
            tensors[name] = value.half() if name in family.embeddings else value
    place = tmp_path_factory.mktemp("minilm") / "packed"
    packing.write(place, tensors, an_index("bert"), minilm_directory)
    return Packed(place), family


@pytest.fixture(scope="module")
def minilm_gguf(minilm_packed: tuple[Packed, Family], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Gguf().write(*minilm_packed, tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="module")
def twin(
    minilm_gguf: Path, minilm_packed: tuple[Packed, Family], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return twin_of(minilm_gguf, minilm_packed[1], tmp_path_factory.mktemp("twin"))


@pytest.fixture(scope="module")
def reference(minilm_packed: tuple[Packed, Family]) -> NDArray[np.float32]:
    return in_torch(*minilm_packed, HARD_TEXTS)


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("small")
    return Gguf().write(*small_packed(place / "packed", small_bert(place / "model")), place)


def in_torch(packed: Packed, family: Family, texts: Sequence[str]) -> NDArray[np.float32]:
    """Block by block, with the GELU that llama.cpp computes."""
    family = family.exports["gguf"].computed()
    modules = []
    for block in family.blocks:
        prefix = block.name + "."
        module = block.build()
        module.load_state_dict(
            {
                name.removeprefix(prefix): packed.load(name).float()
                for name in packed.names()
                if name.startswith(prefix)
            },
            assign=True,
        )
        modules.append((block, module))
    rows = []
    with torch.inference_mode():
        for batch in family.batches(texts, 8):
            hidden = None
            for block, module in modules:
                hidden = block.run(module, hidden, batch)
            assert hidden is not None
            rows.append(family.output(hidden, batch))
    return torch.cat(rows).numpy()


def relative(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(one - other).mean() / np.square(other).mean()))


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min())


def test_it_tokenises_the_hard_texts_as_the_model_s_tokenizer_does(
    minilm_gguf: Path, minilm_packed: tuple[Packed, Family]
) -> None:
    expected = [batch["input_ids"][0].tolist() for batch in minilm_packed[1].batches(HARD_TEXTS, 1)]
    found = LlamaCpp().tokens(minilm_gguf, HARD_TEXTS)
    assert dict(zip(HARD_TEXTS, found, strict=True)) == dict(zip(HARD_TEXTS, expected, strict=True))


def test_the_twin_agrees_with_torch(twin: Path, reference: NDArray[np.float32]) -> None:
    found = LlamaCpp().outputs(twin, HARD_TEXTS, exact=True)
    assert found.dtype == np.float32 and found.shape == reference.shape
    assert relative(found, reference) < 5e-4
    assert cosine(found, reference) > 0.999999


def test_the_file_itself_is_as_close_as_its_kernels_allow(
    minilm_gguf: Path, reference: NDArray[np.float32]
) -> None:
    found = LlamaCpp().outputs(minilm_gguf, HARD_TEXTS)
    assert 1e-3 < relative(found, reference) < 5e-2  # 8-bit activations in the 4-bit kernels


@pytest.mark.parametrize(
    ("key", "new"),
    [
        ("bert.pooling_type", struct.pack("<I", 2)),
        ("bert.attention.layer_norm_epsilon", struct.pack("<f", 1e-2)),
        ("bert.attention.head_count", struct.pack("<I", 6)),
        ("tokenizer.ggml.normalizer.lowercase", b"\0"),
        ("tokenizer.ggml.seperator_token_id", struct.pack("<I", 103)),
    ],
)
def test_a_wrong_key_shows_in_the_twin(
    key: str,
    new: bytes,
    minilm_gguf: Path,
    minilm_packed: tuple[Packed, Family],
    reference: NDArray[np.float32],
    tmp_path: Path,
) -> None:
    bent = edited(minilm_gguf, tmp_path / "model.gguf", value_at(minilm_gguf, key), new)
    texts = HARD_TEXTS[5:9]
    found = LlamaCpp().outputs(twin_of(bent, minilm_packed[1], tmp_path), texts, exact=True)
    assert relative(found, reference[5:9]) > 1e-2


def test_a_wrong_token_shows_in_the_twin(
    minilm_gguf: Path,
    minilm_packed: tuple[Packed, Family],
    reference: NDArray[np.float32],
    tmp_path: Path,
) -> None:
    bent = edited(minilm_gguf, tmp_path / "model.gguf", token_at(minilm_gguf, "▁fox") + 5, b"Q")
    found = LlamaCpp().outputs(twin_of(bent, minilm_packed[1], tmp_path), HARD_TEXTS[4:6], exact=True)
    assert relative(found[:1], reference[4:5]) < 5e-4
    assert relative(found[1:], reference[5:6]) > 1e-2


def test_a_text_gives_the_same_bits_in_any_company(small_gguf: Path) -> None:
    texts = [f"{GOOD} " * (1 + index % 5) + "x" * (index % 7) for index in range(130)]
    together = LlamaCpp().outputs(small_gguf, texts)
    assert together.shape == (130, 64)
    assert np.array_equal(LlamaCpp().outputs(small_gguf, texts[97:101][::-1]), together[97:101][::-1])


def test_ggml_decodes_every_tensor_as_calibration_does(
    minilm_gguf: Path, minilm_packed: tuple[Packed, Family]
) -> None:
    packed, family = minilm_packed
    compared = 0
    for stored in Gguf().open(minilm_gguf, family).tensors():
        assert stored.raw is not None
        kind = stored.value.grid.name if isinstance(stored.value, PackedTensor) else "F16"
        if isinstance(stored.value, torch.Tensor) and stored.value.dtype != torch.float16:
            continue
        expected = packed.load(stored.name).float().numpy().reshape(-1)
        found = LlamaCpp().dequantiser(kind, stored.raw, expected.size)
        assert np.array_equal(found, expected), stored.name
        compared += 1
    assert compared == 37


@pytest.mark.parametrize("name", GRIDS)
@settings(max_examples=25)
@given(out=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_ggml_decodes_any_codes_and_stored_numbers(name: str, out: int, seed: int) -> None:
    tensor = random_point(GRIDS[name], out, 2, seed)
    found = LlamaCpp().dequantiser(GRIDS[name].file_type, encode(tensor).reshape(-1), tensor.codes.numel())
    assert np.array_equal(found.view(np.uint32), tensor.dequantise().numpy().reshape(-1).view(np.uint32))


def test_a_model_with_a_matrix_on_every_grid_runs(tmp_path: Path) -> None:
    packed, family = small_packed(
        tmp_path / "packed", small_bert(tmp_path / "model", width=256), grid=[*GRIDS]
    )
    assert {grid.name for grid in packed.grids.values()} == set(GRIDS)
    path = Gguf().write(packed, family, tmp_path)
    expected = in_torch(packed, family, [GOOD, "café!"])
    assert (
        relative(LlamaCpp().outputs(twin_of(path, family, tmp_path), [GOOD, "café!"], exact=True), expected)
        < 5e-4
    )
    # Its own kernels round the activations to 8 bits.
    assert relative(LlamaCpp().outputs(path, [GOOD, "café!"]), expected) < 0.05


def test_ggml_is_given_whole_blocks_only() -> None:
    for grid, size, count in (
        ("Q4_0", 18, 64),
        ("Q4_0", 18, 31),
        ("Q8_0", 33, 32),
        ("F16", 3, 1),
        ("Q4_0", 0, -32),
    ):
        with pytest.raises(InputError, match=f"{size} bytes of {grid} for {count} values"):
            LlamaCpp().dequantiser(grid, np.zeros(size, np.uint8), count)
    for unknown in ("Q5_2", "I8"):
        with pytest.raises(InputError, match=rf"llama\.cpp's own dequantiser knows no grid {unknown}"):
            LlamaCpp().dequantiser(unknown, np.zeros(24, np.uint8), 32)


def test_a_file_that_llama_cpp_refuses_is_named_with_its_words(small_gguf: Path, tmp_path: Path) -> None:
    path = edited(
        small_gguf,
        tmp_path / "model.gguf",
        value_at(small_gguf, "bert.feed_forward_length"),
        struct.pack("<I", 96),
    )
    with pytest.raises(InputError, match=r"model\.gguf: llama\.cpp fails: .*ffn_up\.weight' has wrong shape"):
        LlamaCpp().outputs(path, [GOOD])


@pytest.mark.skipif(os.name != "posix", reason="only POSIX tells by a signal how a process died")
def test_a_file_that_kills_llama_cpp_is_named_with_the_assertion(small_gguf: Path, tmp_path: Path) -> None:
    path = edited(
        small_gguf,
        tmp_path / "model.gguf",
        value_at(small_gguf, "bert.block_count"),
        struct.pack("<I", 2**31),
    )
    with pytest.raises(
        InputError, match=r"model\.gguf: llama\.cpp died \(SIGABRT; .*\): GGML_ASSERT\(hparams\.n_layer"
    ):
        LlamaCpp().outputs(path, [GOOD])


def test_a_process_that_takes_too_long_is_stopped(small_gguf: Path) -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match=r"llama\.cpp gave no answer within 0 s and was stopped"):
        LlamaCpp(seconds=-5.0).outputs(small_gguf, [GOOD])
    assert time.monotonic() - started < 10


@pytest.mark.skipif(os.name != "posix", reason="only POSIX bounds the memory of a process (RLIMIT_AS)")
def test_a_process_that_takes_too_much_memory_is_stopped(small_gguf: Path) -> None:
    with pytest.raises(InputError, match=r"model-Q4_0\.gguf: llama\.cpp "):
        LlamaCpp(memory=150 << 20).outputs(small_gguf, [GOOD])


def test_texts_that_do_not_fit_and_files_that_are_not_there_are_named(
    small_gguf: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match=r"Q4_0\.gguf: llama\.cpp fails: .*larger than the max context size \(32 tokens\)"
    ):
        LlamaCpp().outputs(small_gguf, [GOOD * 20])
    with pytest.raises(InputError, match="no texts"):
        LlamaCpp().outputs(small_gguf, [])
    with pytest.raises(InputError, match=r"none\.gguf: no such file"):
        LlamaCpp().outputs(tmp_path / "none.gguf", [GOOD])


def test_the_version_is_the_pinned_one(monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = [re.match(r"xllamacpp==([\w.]+)", wanted) for wanted in project["dependencies"]]
    assert [match[1] for match in pinned if match] == [LlamaCpp().version()]
    monkeypatch.setattr(library, "VERSION", "1.2.3")
    with pytest.raises(
        MissingRuntime, match=r"xllamacpp is .*, expected 1\.2\.3: pip install xllamacpp==1\.2\.3"
    ):
        LlamaCpp().version()
    monkeypatch.setattr(library, "PACKAGE", "xllamacpp-that-is-not-there")
    with pytest.raises(MissingRuntime, match=r"llama\.cpp is not installed: pip install"):
        LlamaCpp().version()


@pytest.mark.parametrize(("grid", "error"), [("Q4_0", 0.12), ("Q5_0", 0.06), ("Q8_0", 0.01), ("Q4_K", 0.12)])
def test_ggml_quantises_near_and_weighs_by_importance(grid: str, error: float) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((8, 512)).astype(np.float32)
    importance = np.where(np.arange(512) % 32 < 4, 100.0, 0.01).astype(np.float32)
    plain, weighted = (
        ggml_types.dequantise(grid, ggml_types.quantise(grid, weight, given).reshape(-1), weight.size)
        for given in (None, importance)
    )

    def loss(found: np.ndarray, weights: np.ndarray) -> float:
        return float((weights * (found.reshape(weight.shape) - weight) ** 2).sum())

    assert 0 < loss(plain, np.ones(512)) < error**2 * float((weight**2).sum())
    if grid != "Q8_0":  # which has no use for it
        assert loss(weighted, importance) < 0.9 * loss(plain, importance)


def test_ggml_is_given_nothing_that_would_abort_the_process() -> None:
    weight = np.ones((2, 64), np.float32)
    for grid, weights, importance, message in (
        ("Q4_K", weight, None, "rows of 64 weights for Q4_K: expected whole blocks of 256"),
        ("Q4_0", weight * np.nan, None, "not finite"),
        ("Q4_0", weight, np.ones(32, np.float32), r"importance of shape \[32\] for rows of 64"),
        ("Q4_0", weight, np.full(64, np.inf, np.float32), "one finite number"),
    ):
        with pytest.raises(InputError, match=message):
            ggml_types.quantise(grid, weights, importance)
