"""clip.cpp on written files: it computes what PyTorch does, and what is wrong ends in one sentence."""

import platform
import struct
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from converters import open_family
from epmq_export.errors import InputError, MissingRuntime
from epmq_export.grids import GRIDS
from epmq_export.models import reference
from epmq_export.models.runtime import Runtime
from epmq_export.models.samples import Sample
from epmq_export.tensors.packed import Packed
from epmq_export.verification.checks import check_codes, check_graph, check_metadata, rms_relative
from epmq_export.verification.probes import hard_pictures
from epmq_export.verification.runtimes.clip_cpp import library as clip_library
from epmq_export.verification.runtimes.clip_cpp.runtime import ClipCpp
from formats.gguf.blocks import encode
from formats.gguf.format import Gguf
from tests import ROOT
from tests.tiny import clip as tiny_clip
from tests.tiny.gguf_edits import edited, value_at
from tests.tiny.grid_points import random_point

# Where there is a wheel, a missing package is a failure: `dev` installs it.
WHEELS = sys.platform == "linux" and platform.machine() == "x86_64"
pytestmark = pytest.mark.skipif(not WHEELS, reason="clip-cpp has wheels for Linux x86-64 only")
HELD = ("Q4_0", "Q4_1", "Q4_1Z", "Q8_0")
PICTURES = hard_pictures()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip.clip(tmp_path_factory.mktemp("clip") / "model")


@pytest.fixture(scope="module")
def packed(model: Path) -> Packed:
    return tiny_clip.packed(model)


@pytest.fixture(scope="module")
def gguf(packed: Packed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Gguf().write(packed, open_family(packed.directory), tmp_path_factory.mktemp("gguf"))


def in_torch(packed: Packed, samples: Sequence[Sample]) -> NDArray[np.float32]:
    family = open_family(packed.directory).exports["gguf"].computed()
    assert family.zero_shot is not None
    tower = family.zero_shot.text_tower if isinstance(samples[0], str) else family
    return reference.outputs(tower, packed, samples, torch.device("cpu"))


def cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(((one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)).min())


@pytest.mark.parametrize(("act", "grid"), [("quick_gelu", "Q4_0"), ("gelu", HELD)])
def test_every_check_passes(act: str, grid: str | Sequence[str], tmp_path: Path) -> None:
    packed = tiny_clip.packed(tiny_clip.clip(tmp_path / "model", act=act), grid=grid)
    family = open_family(packed.directory)
    path = Gguf().write(packed, family, tmp_path)
    codes = check_codes(Gguf().open(path, family), packed, Gguf().left_out(family), [ClipCpp()])
    facts = codes.of("clip.cpp").facts
    assert codes.passed and facts == {"equal": True, "tensors": 397, "decoded_by_runtime": 72}
    assert check_metadata(Gguf().open(path, family), packed).passed
    graph = check_graph(Gguf().open(path, family), packed, family.exports["gguf"], ClipCpp(), 1e-3)
    assert graph.passed and len(graph.facts["by_tower"]) == 2, graph.broken


def test_the_file_itself_is_as_close_as_its_kernels_allow(gguf: Path, packed: Packed) -> None:
    found, expected = ClipCpp().outputs(gguf, PICTURES), in_torch(packed, PICTURES)
    assert found.dtype == np.float32 and found.shape == (len(PICTURES), tiny_clip.PROJECTION)
    assert 1e-3 < rms_relative(found, expected) < 5e-2  # 8-bit activations in the 4-bit kernels
    assert cosine(found, expected) > 0.99


def test_texts_are_read_at_their_first_end_and_cut_to_the_context(gguf: Path, packed: Packed) -> None:
    texts = [
        "a photo of the red cat",
        "",
        "a dog" * 20,
        f"a cat{tiny_clip.END} and more",
        "Über-CAT  it's 12",
    ]
    assert rms_relative(ClipCpp().outputs(gguf, texts), in_torch(packed, texts)) < 2e-3


def test_a_sample_gives_the_same_bits_in_any_company(gguf: Path) -> None:
    together = ClipCpp().outputs(gguf, PICTURES)
    assert np.array_equal(ClipCpp().outputs(gguf, PICTURES[5:7][::-1]), together[5:7][::-1])


def test_swapped_names_show_in_the_graph(gguf: Path, packed: Packed, tmp_path: Path) -> None:
    """Query for value in one layer: all shapes are right, and so is every tensor."""
    content = gguf.read_bytes()
    for one, other in (
        (b"v.blk.0.attn_q.weight", b"v.blk.0.attn_x.weight"),
        (b"v.blk.0.attn_v.weight", b"v.blk.0.attn_q.weight"),
    ):
        content = content.replace(one, other)
    bent = tmp_path / "model.gguf"
    bent.write_bytes(content.replace(b"v.blk.0.attn_x.weight", b"v.blk.0.attn_v.weight"))
    family = open_family(packed.directory)
    check = check_graph(Gguf().open(bent, family), packed, family.exports["gguf"], ClipCpp(), 1e-3)
    assert not check.passed and check.facts["value"] > 1e-2


def test_llama_cpp_s_names_for_the_feed_forward_end_in_a_sentence(gguf: Path, tmp_path: Path) -> None:
    """Its matrices are then of the wrong shapes, which clip.cpp finds when it multiplies."""
    content = gguf.read_bytes()
    for one, other in (
        (b".ffn_up.", b".ffn_xx."),
        (b".ffn_down.", b".ffn_up.\0\0"),
        (b".ffn_xx.", b".ffn_up."),
    ):
        assert one in content
        content = content.replace(one, other)
    bent = tmp_path / "model.gguf"
    bent.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.gguf: clip\.cpp (fails|died)"):
        ClipCpp().outputs(bent, PICTURES[:1])


@pytest.mark.parametrize("name", GRIDS)
def test_its_ggml_decodes_the_grids_that_it_can_hold(name: str) -> None:
    grid = GRIDS[name]
    tensor = random_point(grid, 3, 2, 0)
    raw = encode(tensor).reshape(-1)
    if name not in HELD:
        with pytest.raises(InputError, match=f"clip.cpp's own dequantiser knows no grid {grid.file_type}"):
            ClipCpp().dequantiser(grid.file_type, raw, tensor.codes.numel())
        return
    found = ClipCpp().dequantiser(grid.file_type, raw, tensor.codes.numel())
    assert np.array_equal(found.view(np.uint32), tensor.dequantise().numpy().reshape(-1).view(np.uint32))
    with pytest.raises(InputError, match=f"17 bytes of {grid.file_type} for 32 values"):
        ClipCpp().dequantiser(grid.file_type, np.zeros(17, np.uint8), 32)


def test_a_file_on_a_grid_that_it_cannot_read_is_not_written(model: Path, tmp_path: Path) -> None:
    packed = tiny_clip.packed(model, grid="IQ4_NL", place=tmp_path / "packed")
    with pytest.raises(
        InputError, match=r"is on IQ4_NL, expected Q4_0 or Q4_1 or Q8_0: clip\.cpp cannot read it in GGUF"
    ):
        Gguf().write(packed, open_family(packed.directory), tmp_path)
    assert not (tmp_path / "model.gguf").exists()


@pytest.mark.parametrize(
    ("key", "new", "message"),
    [
        ("general.architecture", b"\4\0\0\0\0\0\0\0bert", "general.architecture is 'bert', expected 'clip'"),
        ("clip.vision.block_count", struct.pack("<I", 13), r"unable to find tensor v\.blk\.12"),
        (
            "clip.vision.image_size",
            struct.pack("<I", 64),
            r"v\.position_embd\.weight has 17 rows, expected 65",
        ),
        (
            "clip.vision.projection_dim",
            struct.pack("<I", 64),
            r"visual_projection\.weight has 32 rows, expected 64",
        ),
        ("clip.vision.patch_size", struct.pack("<I", 0), r"clip\.vision\.patch_size is 0"),
        ("clip.vision.attention.head_count", struct.pack("<I", 0), "SIGFPE"),
        ("clip.has_vision_encoder", b"\0", "no vision encoder"),
    ],
)
def test_a_wrong_key_is_named(key: str, new: bytes, message: str, gguf: Path, tmp_path: Path) -> None:
    path = edited(gguf, tmp_path / "model.gguf", value_at(gguf, key), new)
    with pytest.raises(InputError, match=rf"model\.gguf: clip\.cpp (fails|died).*: .*{message}|{message}"):
        ClipCpp().outputs(path, PICTURES[:1])


@pytest.mark.parametrize("key", ["clip.use_gelu", "clip.vision.image_mean", "tokenizer.ggml.merges"])
def test_a_missing_key_is_named(key: str, gguf: Path, tmp_path: Path) -> None:
    coded = key.encode()
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf.read_bytes().replace(coded, b"x" + coded[1:], 1))
    with pytest.raises(InputError, match=rf"model\.gguf: clip\.cpp .*{key}"):
        ClipCpp().outputs(path, ["a cat"] if key.startswith("tokenizer") else PICTURES[:1])


def test_a_file_that_is_cut_off_is_named(gguf: Path, tmp_path: Path) -> None:
    content, path = gguf.read_bytes(), tmp_path / "model.gguf"
    # Cut within its keys, its reader frees what it has not read: it says so, or dies of it with words of the
    # C library's choice, as memory happens to lie.
    within = r"(fails.*(failed to read|reads no GGUF)|died)"
    for length, message in (
        (len(content) - 9000, r"(fails|died).*ends at byte \d+, and the file at byte \d+"),
        (5000, within),
        (0, r"(fails|died).*reads no GGUF"),
    ):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match=rf"model\.gguf: clip\.cpp {message}"):
            ClipCpp().outputs(path, PICTURES[:1])


def test_samples_that_do_not_go_together_and_files_that_are_not_there_are_named(
    gguf: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="found texts among pictures"):
        ClipCpp().outputs(gguf, [PICTURES[0], "a cat"])
    with pytest.raises(InputError, match="no samples"):
        ClipCpp().outputs(gguf, [])
    with pytest.raises(InputError, match=r"none\.gguf: no such file"):
        ClipCpp().outputs(tmp_path / "none.gguf", PICTURES[:1])


def test_a_process_that_takes_too_long_or_too_much_is_stopped(gguf: Path) -> None:
    started = time.monotonic()
    with pytest.raises(InputError, match=r"clip\.cpp gave no answer within 0 s and was stopped"):
        ClipCpp(seconds=0.0).outputs(gguf, PICTURES[:1])
    assert time.monotonic() - started < 60
    with pytest.raises(InputError, match=r"model-F16\.gguf: clip\.cpp "):
        ClipCpp(memory=20 << 20).outputs(gguf, PICTURES[:1])


def test_the_version_is_the_pinned_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    runtime: Runtime = ClipCpp()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert [wanted.split(";")[0] for wanted in project["optional-dependencies"]["clip"]] == [
        f"clip-cpp=={runtime.version()}"
    ]
    monkeypatch.setattr(clip_library, "_CPUINFO", tmp_path / "cpuinfo")
    assert runtime.version()
    (tmp_path / "cpuinfo").write_text("processor: 0\nflags\t\t: fpu fma sse2\n")
    with pytest.raises(MissingRuntime, match=r"this CPU has no avx2, f16c"):
        runtime.version()
    monkeypatch.setattr(clip_library, "VERSION", "1.2.3")
    with pytest.raises(
        MissingRuntime, match=r"clip-cpp is 0\.5\.0, expected 1\.2\.3: pip install 'epmq-export\[clip\]'"
    ):
        runtime.version()
    monkeypatch.setattr(clip_library, "PACKAGE", "clip-cpp-that-is-not-there")
    with pytest.raises(
        MissingRuntime, match=r"clip\.cpp is not installed: pip install 'epmq-export\[clip\]'"
    ):
        runtime.version()
