"""T5: what the blocks compute, how samples become tokens, and what GGUF holds, beside transformers' own
model.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import T5ForConditionalGeneration

from converters import open_family
from converters.t5.family import T5
from epmq_export.calibration.anchor import with_length
from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import Calibrator, TaskData
from epmq_export.calibration.method import PRESETS
from epmq_export.errors import InputError
from epmq_export.grids.layout import Layout
from epmq_export.models import reference
from epmq_export.models.blocks import inputs_of, load_block, run_block
from epmq_export.models.family import Batch, calibrated_on, rows
from epmq_export.models.greedy import answers
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.models.samples import Passage, Question, Sample
from epmq_export.tensors import packed_writer
from epmq_export.tensors.gguf_file import GgufFile
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.verification.checks import check_codes, check_metadata
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from formats.gguf.format import Gguf
from formats.gguf.spec import spec_of
from formats.onnx.format import OnnxQdq
from tests.tiny.in_memory import InMemory
from tests.tiny.packed_index import an_index
from tests.tiny.t5 import VERSIONS, configured, t5, texts
from tests.tiny.t5_files import opened, pack

CPU = torch.device("cpu")
REAL = Path("~/.cache/epmq/lm/flan-t5-small").expanduser()
DEEPER = (2, 3)
# Of float32, in scores of up to 6, by the shapes that batches have; the library's own differ as much between
# a padded batch and single samples.
NOISE = 1e-4
# Texts and passages of all lengths, so that a batch needs padding in both halves, and where the halves have
# nothing but their ends.
SAMPLES: list[Sample] = [
    *texts(6, 1),
    *map(Passage, texts(35, 2), texts(35, 3)),
    Passage("", ""),
    Passage("vifo", ""),
    "",
]
random.Random(0).shuffle(SAMPLES)


@torch.no_grad()
def transformers_outputs(directory: Path, samples: Sequence[Sample]) -> NDArray[np.float32]:
    """The scores of the library's own model, a sample at a time."""
    family = T5.open(directory)
    model: Any = T5ForConditionalGeneration.from_pretrained(directory, dtype=torch.float32).eval()
    found = []
    for sample in samples:
        context, target = (
            (sample.context, family.targets(sample)) if isinstance(sample, Passage) else (str(sample), [])
        )
        ids = torch.tensor([family.tokenizer(context)["input_ids"]])
        found.append(
            model(input_ids=ids, decoder_input_ids=torch.tensor([[family.start, *target[:-1]]])).logits[0]
        )
    return torch.cat(found).numpy()


def in_gguf(directory: Path) -> tuple[Path, Packed, T5]:
    stored, family = pack(directory)
    folder = directory.with_name("gguf")
    folder.mkdir()
    return Gguf().write(stored, family, folder), stored, family


@pytest.mark.parametrize("depths", [DEEPER, (3, 2), (1, 1)])
@pytest.mark.parametrize("version", VERSIONS)
def test_outputs_are_those_of_transformers(tmp_path: Path, version: str, depths: tuple[int, int]) -> None:
    directory = t5(tmp_path / "model", version, depths=depths)
    family, source = opened(directory)
    found = reference.outputs(family, source, SAMPLES, CPU)
    assert len(found) == sum(rows(family, sample) for sample in SAMPLES)
    np.testing.assert_allclose(found, transformers_outputs(directory, SAMPLES), rtol=1e-5, atol=NOISE)
    # All that the blocks hold and nothing beyond.
    assert (
        sorted({f"{block.prefix}{path}" for block in family.blocks for path in block.build().state_dict()})
        == source.names()
    )


@pytest.mark.parametrize(
    ("version", "keys"),
    [
        ("1.1", {"tie_word_embeddings": False, "scale_decoder_outputs": None}),
        ("1.0", {"scale_decoder_outputs": None}),
    ],
)
def test_configs_as_older_libraries_write_them(tmp_path: Path, version: str, keys: dict[str, object]) -> None:
    directory = configured(t5(tmp_path / "model", version), **keys)
    family, source = opened(directory)
    np.testing.assert_allclose(
        reference.outputs(family, source, SAMPLES[:8], CPU),
        transformers_outputs(directory, SAMPLES[:8]),
        rtol=1e-5,
        atol=NOISE,
    )


def test_one_sample_does_not_know_of_the_others_in_its_batch(tmp_path: Path) -> None:
    family, source = opened(t5(tmp_path / "model"))
    alone = np.concatenate([reference.outputs(family, source, [sample], CPU) for sample in SAMPLES[:12]])
    np.testing.assert_allclose(
        reference.outputs(family, source, SAMPLES[:12], CPU), alone, rtol=1e-5, atol=NOISE
    )


def test_targets_end_as_texts_do(tmp_path: Path) -> None:
    family = T5.open(t5(tmp_path / "model"))
    assert family.targets(Passage("", "vifo"))[-1] == family.tokenizer.eos_token_id
    assert family.targets(Passage("vifo", "")) == [family.tokenizer.eos_token_id]


def test_every_name_of_the_embeddings_is_one_tensor(tmp_path: Path) -> None:
    directory = t5(tmp_path / "model")
    path = directory / "model.safetensors"
    tensors = load_file(path)
    names = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    unread = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.zeros(32, 2)}
    save_file(
        {**tensors, **{name: tensors["shared.weight"].clone() for name in names}, **unread},
        path,
        {"format": "pt"},
    )
    assert opened(directory)[1].names() == sorted(tensors)


def test_a_head_that_differs_from_what_it_is_tied_to_is_refused(tmp_path: Path) -> None:
    directory = t5(tmp_path / "model")
    path = directory / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["shared.weight"] + 1}, path, {"format": "pt"})
    with pytest.raises(
        InputError, match=r"lm_head.weight and shared.weight are both shared.weight and differ"
    ):
        opened(directory)


@pytest.mark.parametrize("version", VERSIONS)
def test_each_steps_input_is_what_its_members_see(tmp_path: Path, version: str) -> None:
    """The rows that count are those of tokens, and those alone; norms are seen before they scale."""
    family, source = opened(t5(tmp_path / "model", version))
    (batch,) = family.batches(SAMPLES, len(SAMPLES))
    hidden = None
    for block in family.blocks:
        module = load_block(block, source, CPU)
        paths = [path for step in block.steps for path in step]
        seen, result = inputs_of(
            module, paths, partial(run_block, block, module, hidden, batch, CPU), stop=False
        )
        assert result is not None and len(seen) == len(paths)
        given = dict(zip(paths, seen, strict=True))
        for step in block.steps:
            part = module.get_submodule(step[0])
            for path in step[1:]:
                assert torch.equal(given[step[0]], given[path])
            weights = block.row_weights(step, batch, (given[step[0]].shape[0], given[step[0]].shape[1]))
            of_encoder = "EncDecAttention.k" in step[0] or (
                not block.prefix.startswith("decoder") and block.name != "head"
            )
            assert torch.equal(
                weights, batch["attention_mask" if of_encoder else "decoder_attention_mask"].float()
            )
            assert weights.shape == given[step[0]].shape[:2]
            if isinstance(part, RmsNorm):
                torch.testing.assert_close(
                    given[step[0]].square().mean(-1)[weights > 0],
                    torch.ones(int(weights.sum())),
                    rtol=1e-3,
                    atol=1e-3,
                )
        hidden = result
    assert hidden is not None and len(hidden) == sum(rows(family, sample) for sample in SAMPLES)


def test_later_blocks_need_no_more_than_they_are_left(tmp_path: Path) -> None:
    family, source = opened(t5(tmp_path / "model"))
    (batch,) = family.batches(SAMPLES[:4], 4)
    later: Batch = family.later(batch)
    assert "input_ids" not in later
    hidden = run_block(family.blocks[0], load_block(family.blocks[0], source, CPU), None, batch, CPU)
    for block in family.blocks[1:]:
        hidden = run_block(block, load_block(block, source, CPU), hidden, later, CPU)
    np.testing.assert_allclose(
        family.output(hidden, later).numpy(),
        reference.outputs(family, source, SAMPLES[:4], CPU),
        rtol=1e-5,
        atol=NOISE,
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_answers_are_the_librarys_greedy_ones(tmp_path: Path, version: str) -> None:
    directory = t5(tmp_path / "model", version, depths=DEEPER)
    family, source = opened(directory)
    asked = texts(40, 5)
    model: Any = T5ForConditionalGeneration.from_pretrained(directory).eval()
    encoded = family.tokenizer(asked, return_tensors="pt", padding=True)
    # Without its cache, which the library makes too small for a decoder that is deeper than the encoder.
    expected = model.generate(**encoded, max_new_tokens=5, do_sample=False, use_cache=False)
    wanted = [family.tokenizer.decode([token for token in row if token > 1]) for row in expected.tolist()]
    found = answers(family, source, asked, 5, CPU)
    assert [family.said(ids) for ids in found] == [text.strip() for text in wanted]
    assert len(set(wanted)) > 3 and all(ids[-1] in family.ends or len(ids) == 5 for ids in found)


def test_runtimes_answer_as_torch_does(tmp_path: Path) -> None:
    stored, family = pack(t5(tmp_path / "model", "1.1"))
    asked = [Question(text, 6, tuple(family.ends)) for text in texts(40, 6)]
    for format, runtime, tower in (
        (Gguf(), LlamaCpp(), family.exports["gguf"].computed()),
        (OnnxQdq(), OnnxRuntime(), family),
    ):
        (folder := tmp_path / format.name).mkdir()
        path = format.write(stored, family, folder)
        expected = reference.outputs(tower, stored, asked, CPU)
        assert expected.shape == (40, 6) and len(np.unique(expected, axis=0)) > 3 and (expected == -1).any()
        np.testing.assert_array_equal(
            runtime.outputs(format.open(path, family).exact(path, tmp_path), asked, exact=True), expected
        )
        assert runtime.outputs(path, asked).shape == expected.shape


def test_texts_are_calibrated_on_with_answers_and_passages_as_they_are(tmp_path: Path) -> None:
    family, source = opened(t5(tmp_path / "model"))
    passage = Passage("vifo", "gari")
    first, kept, again, other = calibrated_on(
        family, source, ["vifo gari", passage, "vifo gari", "foro"], CPU
    )
    (ids,) = answers(family, source, ["vifo gari"], 16, CPU)
    assert first == again == Passage("vifo gari", family.said(ids))
    assert kept is passage and isinstance(other, Passage) and other.context == "foro"


@pytest.mark.parametrize("version", VERSIONS)
def test_calibration_lowers_the_loss(tmp_path: Path, version: str) -> None:
    family, source = opened(t5(tmp_path / "model", version))
    base = {name: source.load(name) for name in source.names()}
    generator = torch.Generator().manual_seed(0)
    moved = {
        name
        for block in family.blocks
        for step in block.steps
        for path in step
        if base[name := f"{block.prefix}{path}.weight"].ndim == 2
    }
    experts = [
        {
            name: value + 0.1 * value.std() * torch.randn(value.shape, generator=generator)
            if name in moved
            else value
            for name, value in base.items()
        }
        for _ in range(2)
    ]
    merged = {
        name: value + 0.5 * sum((expert[name] - value for expert in experts), torch.zeros(()))
        for name, value in base.items()
    }
    sources = [InMemory(expert) for expert in experts]
    tasks = [
        TaskData(f"task{t}", expert, calibrated_on(family, expert, texts(24, 10 + t), CPU))
        for t, expert in enumerate(sources)
    ]
    found: dict[str, tuple[dict[str, PackedTensor | torch.Tensor], float]] = {}
    for preset in ("rtn", "featcal"):
        method = with_length(PRESETS[preset], family, InMemory(base), sources, InMemory(merged))
        calibrator = Calibrator(family, InMemory(base), InMemory(merged), tasks, method, Layout(), CPU)
        tensors: dict[str, PackedTensor | torch.Tensor] = {}
        for _, result in calibrate_blocks(calibrator):
            tensors |= result.tensors
            assert all(loss.loss_before <= loss.loss_merged + 1e-9 for loss in result.losses)
        assert sorted(tensors) == source.names()
        on_grid = {name for name, value in tensors.items() if isinstance(value, PackedTensor)}
        assert on_grid == {*moved, *family.embeddings}
        place = tmp_path / preset
        packed_writer.write(place, tensors, an_index("t5"), tmp_path / "model")
        errors = [
            reference.outputs(family, Packed(place), task.samples, CPU)
            - reference.outputs(family, task.expert, task.samples, CPU)
            for task in tasks
        ]
        found[preset] = tensors, float(np.mean([np.square(error).mean() for error in errors]))
    assert found["featcal"][1] < 0.9 * found["rtn"][1]


@pytest.mark.parametrize("depths", [(3, 2), (2, 2)])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_f32_twin_in_llama_cpp_computes_what_pytorch_does(
    tmp_path: Path, version: str, depths: tuple[int, int]
) -> None:
    path, stored, family = in_gguf(t5(tmp_path / "model", version, depths=depths))
    computed = family.exports["gguf"].computed()
    expected = reference.outputs(computed, stored, SAMPLES, CPU)
    found = LlamaCpp().outputs(Gguf().open(path, family).exact(path, tmp_path), SAMPLES, exact=True)
    assert found.shape == expected.shape
    assert np.sqrt(np.square(found - expected).mean()) < 1e-3 * expected.std()
    four_bits = LlamaCpp().outputs(path, SAMPLES)
    assert (
        np.sqrt(np.square(four_bits - expected).mean()) < 0.3 * expected.std()
    )  # its kernels round what they are given to 8 bits


@pytest.mark.parametrize("version", VERSIONS)
def test_gguf_holds_the_packed_checkpoint_bit_for_bit(tmp_path: Path, version: str) -> None:
    path, stored, family = in_gguf(t5(tmp_path / "model", version))
    codes = check_codes(Gguf().open(path, family), stored, Gguf().left_out(family), [LlamaCpp()])
    assert codes.passed and codes.decoded["llama.cpp"] > 30, codes.broken
    assert check_metadata(Gguf().open(path, family), stored).passed
    file = GgufFile.open(path)
    assert ("output.weight" in file.tensors) == (version == "1.1")
    assert file.tensors["enc.blk.0.attn_rel_b.weight"].type.name == "F32"


def test_gguf_holds_the_tied_heads_factor_and_the_check_sees_it(tmp_path: Path) -> None:
    path, stored, family = in_gguf(t5(tmp_path / "model", "1.0"))
    file = GgufFile.open(path)
    name = "dec.output_norm.weight"
    held = np.frombuffer(file.raw(name), np.float32)
    np.testing.assert_array_equal(held, (stored.load("decoder.final_layer_norm.weight") * 64**-0.5).numpy())
    content = path.read_bytes()
    assert content.count(held.tobytes()) == 1
    path.write_bytes(content.replace(held.tobytes(), np.nextafter(held, np.float32(9)).tobytes()))
    assert check_metadata(Gguf().open(path, family), stored).broken == [
        f"{path}: tensor {name}: its values are not those that the config asks for"
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"feed_forward_proj": "gated-silu"},
            "found feed_forward_proj 'gated-silu', expected 'relu' or 'gated-gelu'",
        ),
        ({"feed_forward_proj": "silu-gated-x"}, "found no config of a t5"),
        ({"relative_attention_max_distance": 64}, "found relative_attention_max_distance 64, expected 128"),
        ({"is_encoder_decoder": False}, "found is_encoder_decoder False, expected True"),
        (
            {"decoder_start_token_id": None},
            "found decoder_start_token_id None, expected the token that the decoder begins with",
        ),
        (
            {"decoder_start_token_id": 100000},
            "found decoder_start_token_id 100000, expected the token that the decoder begins with",
        ),
        ({"d_model": "wide"}, "found no config of a t5"),
    ],
)
def test_configs_that_would_be_computed_otherwise_are_refused(
    tmp_path: Path, changes: dict[str, object], expected: str
) -> None:
    directory = configured(t5(tmp_path / "model"), **changes)
    with pytest.raises(InputError) as error:
        open_family(directory)
    assert str(error.value).startswith(f"{directory / 'config.json'}: {expected}")


def test_a_tokenizer_that_does_not_end_texts_is_refused(tmp_path: Path) -> None:
    directory = t5(tmp_path / "model")
    path = directory / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "post_processor": None}))
    with pytest.raises(
        InputError, match=r"its tokenizer gives a text the tokens \[.*\], expected </s> at the end"
    ):
        open_family(directory)


def test_a_decoder_deeper_than_the_encoder_is_refused_in_gguf(tmp_path: Path) -> None:
    family = T5.open(t5(tmp_path / "model", depths=DEEPER))
    with pytest.raises(
        InputError,
        match="found num_decoder_layers 3 above num_layers 2, expected no more decoder than encoder layers",
    ):
        spec_of(family)


def test_what_is_too_long_loses_its_end(tmp_path: Path) -> None:
    family = replace(T5.open(t5(tmp_path / "model")), max_length=9)
    long = " ".join(texts(5, 7))
    for cut in (family.truncate(long), family.truncate(Passage("", long))):
        text = cut.target if isinstance(cut, Passage) else str(cut)
        assert text and long.startswith(text) and len(family.targets(Passage("", text))) <= 9
    whole = Passage("vifo", "gari")
    assert family.truncate(whole) == whole
    assert T5.open(tmp_path / "model").max_length == 64


@pytest.mark.skipif(
    not REAL.is_dir(), reason=f"needs the weights of flan-t5-small, which no package has, in {REAL}"
)
def test_a_real_flan_t5() -> None:
    family, source = opened(REAL)
    assert not family.tied and family.max_length == 512
    samples: list[Sample] = [
        "translate English to German: How old are you?",
        Passage("Is the sky blue? Answer yes or no.", "yes"),
        Passage("", "no"),
    ]
    np.testing.assert_allclose(
        reference.outputs(family, source, samples, CPU),
        transformers_outputs(REAL, samples),
        rtol=1e-5,
        atol=1e-3,
    )
