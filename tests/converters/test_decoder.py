"""Decoder language models: what the blocks compute, how samples become tokens, and what the files hold,
beside transformers' own models.
"""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from converters import open_family
from converters.decoder.blocks import Head
from converters.decoder.family import Decoder
from epmq_export.calibration import shared, step_solver
from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import BlockResult, Calibrator, TaskData
from epmq_export.calibration.method import PRESETS
from epmq_export.calibration.rounding import store
from epmq_export.errors import InputError
from epmq_export.grids.layout import Layout
from epmq_export.models import reference
from epmq_export.models.blocks import linears
from epmq_export.models.greedy import answers
from epmq_export.models.samples import Passage, Question, Sample
from epmq_export.tensors.packed import Packed, flatten
from epmq_export.verification.checks import check_codes, check_graph, check_metadata
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from epmq_export.verification.runtimes.onnxruntime.decoder import scores
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime, open_session
from formats.gguf.format import Gguf
from formats.gguf.spec import spec_of
from formats.onnx.format import OnnxQdq
from tests.tiny import decoder as tiny_decoder
from tests.tiny.decoder_files import decoder_files, opened
from tests.tiny.onnx_encoders import notes

CPU = torch.device("cpu")
SAMPLES: list[Sample] = [
    "the cat sat on",
    Passage("it is", " good , very good !"),
    "a",
    Passage("", "what is that ? 12 of 345 things, and café 東京 what is that ? 12 of"),
    Passage("the cat sat on the mat . " * 3, " a dog"),
]


@torch.no_grad()
def transformers_outputs(directory: Path, samples: list[Sample]) -> NDArray[np.float32]:
    """One sample at a time, without padding, by the library's own model."""
    made: Any = AutoModelForCausalLM.from_pretrained(directory).eval()
    # Of some types transformers makes another tokenizer than the saved one.
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    rows = []
    for sample in samples:
        context, target = (sample.context, sample.target) if isinstance(sample, Passage) else (sample, "")
        ids = tokenizer.encode(context + target).ids
        start = max(len(tokenizer.encode(context).ids), 1)
        logits = made(torch.tensor([ids])).logits[0]
        rows.append(logits[start - 1 : max(start, len(ids) - 1)])
    found: NDArray[np.float32] = torch.cat(rows).float().numpy()
    return found


@pytest.mark.parametrize("kind", tiny_decoder.KINDS)
def test_outputs_are_transformers_own(kind: str, tmp_path: Path) -> None:
    family, source = opened(tiny_decoder.write(tmp_path / "model", kind))
    found = reference.outputs(family, source, SAMPLES, CPU)
    expected = transformers_outputs(family.directory, SAMPLES)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-4 * np.abs(expected).max())
    targets = [family.targets(sample) if isinstance(sample, Passage) else [0] for sample in SAMPLES]
    assert sum(map(len, targets)) == len(found)
    assert family.tokenizer.decode(targets[1]) == " good , very good !"


@pytest.mark.parametrize("kind", tiny_decoder.KINDS)
def test_files_compute_what_torch_does(kind: str, tmp_path: Path) -> None:
    files = decoder_files(kind)
    held, family = files.packed, files.family
    for format, runtime, path in ((Gguf(), LlamaCpp(), files.gguf), (OnnxQdq(), OnnxRuntime(), files.onnx)):
        model = format.open(path, family)
        for check in (
            check_codes(model, held, format.left_out(family), [runtime]),
            check_metadata(model, held),
        ):
            assert not check.broken
        graph = check_graph(
            model, held, family.exports[format.name], runtime, 1e-3 if format.name == "gguf" else 1e-5
        )
        assert graph.passed, graph.broken
        for exact in (True, False):
            path_or_twin = model.exact(path, tmp_path) if exact else path
            found = runtime.outputs(path_or_twin, SAMPLES, exact=exact)
            expected = reference.outputs(family, held, SAMPLES, CPU)
            assert np.linalg.norm(found - expected) <= (1e-3 if exact else 0.1) * np.linalg.norm(expected)
        if format.name == "onnx":
            told = notes(path, family)
            heads = sum(name in held.grids for name in family.embeddings)  # tied ones
            assert told["fused"] == told["linears"] == len(linears(family)) + heads


@pytest.mark.parametrize("kind", ["llama, tied", "gemma3"])
def test_answers_are_the_librarys_greedy_ones_everywhere(kind: str, tmp_path: Path) -> None:
    files = decoder_files(kind)
    held, family = files.packed, files.family
    asked = [
        Question(line[:end], 6, tuple(family.ends)) for line in tiny_decoder.LINES for end in range(4, 20, 2)
    ]
    expected = reference.outputs(family, held, asked, CPU)
    assert expected.shape == (len(asked), 6) and len(np.unique(expected, axis=0)) > 5

    source: Any = AutoModelForCausalLM.from_pretrained(files.directory).eval()
    source.load_state_dict({name: family_value(held, name) for name in held.names()}, strict=False)
    for question, ids in zip(asked[:12], expected, strict=False):
        given = torch.tensor([family.tokenizer(question.text)["input_ids"]])
        found = source.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=6, do_sample=False
        )[0, given.shape[1] :]
        assert found.tolist() == [int(token) for token in ids if token >= 0]

    for format, runtime, path in ((Gguf(), LlamaCpp(), files.gguf), (OnnxQdq(), OnnxRuntime(), files.onnx)):
        wanted = reference.outputs(family.exports[format.name].computed(), held, asked, CPU)
        np.testing.assert_array_equal(
            runtime.outputs(format.open(path, family).exact(path, tmp_path), asked, exact=True), wanted
        )


def test_the_scores_of_what_is_only_read_are_not_kept() -> None:
    """ONNX Runtime gives those of every token, each as wide as the vocabulary."""
    session = open_session(decoder_files("llama, tied").onnx)
    (row,) = scores(session, ["a"], lambda text: [1], exact=False)
    tracemalloc.start()
    scores(session, ["a"] * 20, lambda text: [1] * 50, exact=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 50 * row.nbytes / 2


def family_value(held: Packed, name: str) -> torch.Tensor:
    """Return a tensor as transformers has it: norms that calibration ships whole lose their offset again."""
    return held.load(name).float()


def test_generation_config_ends_answers_too(tmp_path: Path) -> None:
    directory = tiny_decoder.write(tmp_path / "model", "qwen2")
    path = directory / "generation_config.json"
    for stops, ends in ((5, {0, 5}), ([5, 9], {0, 5, 9}), (None, {0})):
        path.write_text(json.dumps({"eos_token_id": stops}))
        family = open_family(directory)
        assert isinstance(family, Decoder) and family.ends == ends
    path.write_text(json.dumps({"eos_token_id": "end"}))
    with pytest.raises(
        InputError, match=r"generation_config\.json: found eos_token_id 'end', expected a token"
    ):
        open_family(directory)


def test_an_answer_ends_with_its_line_and_at_each_of_the_ends(tmp_path: Path) -> None:
    directory = tiny_decoder.write(tmp_path / "model", "llama, tied", eos_token_id=[0, 7])
    family, source = opened(directory)
    assert family.ends == {0, 7}
    line = family.tokenizer(" good , very\nbad")["input_ids"]
    assert family.said([*line, 0]) == "good , very"
    found = answers(family, source, [*tiny_decoder.LINES] * 4, 12, CPU)
    assert all(not family.ends & set(ids[:-1]) for ids in found)


def test_a_long_question_loses_its_beginning(tmp_path: Path) -> None:
    family, _ = opened(tiny_decoder.write(tmp_path / "model", "llama, tied", max_position_embeddings=40))
    long = Question("a dog " * 40 + "ran", 8, (0,))
    cut = family.truncate(long)
    assert isinstance(cut, Question) and long.text.endswith(cut.text) and cut.limit == 8
    assert 24 < len(family.tokenizer(cut.text)["input_ids"]) <= 32


def test_embeddings_on_a_grid_serve_as_a_tied_head() -> None:
    files = decoder_files("llama, tied")
    held, family = files.packed, files.family
    assert set(family.embeddings) <= held.grids.keys()
    for format, runtime, path in ((Gguf(), LlamaCpp(), files.gguf), (OnnxQdq(), OnnxRuntime(), files.onnx)):
        assert not check_codes(format.open(path, family), held, format.left_out(family), [runtime]).broken
        assert check_graph(format.open(path, family), held, family.exports[format.name], runtime, 1e-5).passed
    assert notes(path, family) == {"linears": 15, "fused": 15}  # with the head


def test_a_calibration_lowers_the_loss_and_solves_the_norms(tmp_path: Path) -> None:
    for kind in ("llama, tied", "gemma3", "smollm3"):
        base = tiny_decoder.write(tmp_path / kind / "base", kind)
        family, source = opened(base)
        tasks = []
        for t in range(2):
            _, expert = opened(tiny_decoder.write_expert(tmp_path / kind / f"expert{t}", base, kind, t + 1))
            tasks.append(TaskData(f"task{t}", expert, list(tiny_decoder.LINES)))
        method = PRESETS["anchored"].override(alpha=None, rho=1.0, damping=None)
        calibrator = Calibrator(family, source, tasks[0].expert, tasks, method, Layout("Q8_0"), CPU)
        results = [result for _, result in calibrate_blocks(calibrator)]
        losses = [loss for result in results for loss in result.losses]
        assert len(losses) == 7 * family.config.num_hidden_layers
        assert sum(loss.loss_after for loss in losses) < sum(loss.loss_merged for loss in losses)
        shipped = {name: value for result in results for name, value in result.tensors.items()}
        assert set(shipped) == set(source.names())
        norm = shipped["model.layers.1.input_layernorm.weight"]
        assert isinstance(norm, torch.Tensor) and not torch.equal(
            norm, source.load("model.layers.1.input_layernorm.weight")
        )
        if kind == "gemma3":
            assert torch.equal(norm + 1.0 - 1.0, norm)


def test_a_tied_head_is_rounded_once_and_its_scores_are_never_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a caller keeps of the embeddings is the head's, too. Nobody reads what the last block makes."""
    family, source = opened(tiny_decoder.write(tmp_path / "base", "llama, tied"))
    _, expert = opened(tiny_decoder.write_expert(tmp_path / "expert", tmp_path / "base", "llama, tied", 1))
    method = replace(PRESETS["anchored"], rho=1.0)
    task = TaskData("task", expert, list(tiny_decoder.LINES))
    calibrator = Calibrator(family, source, expert, [task], method, Layout("Q8_0"), CPU)
    expected = [result for _, result in calibrate_blocks(calibrator)]

    stored: list[str] = []
    kept: dict[str, BlockResult] = {}

    def counted(name: str, *arguments: Any) -> Any:
        stored.append(name)
        return store(name, *arguments)

    for module in (step_solver, shared):
        monkeypatch.setattr(module, "store", counted)
    scores = Head.scores
    monkeypatch.setattr(Head, "scores", lambda *arguments: pytest.fail(f"made {scores(*arguments).shape}"))
    for block, result in calibrate_blocks(calibrator, kept.get):
        kept[block.name] = result
    (name,) = family.embeddings
    assert stored.count(name) == 1
    for one, other in zip(expected, kept.values(), strict=True):
        assert flatten(one.tensors)[0].keys() == flatten(other.tensors)[0].keys()
        for part, value in flatten(one.tensors)[0].items():
            assert torch.equal(value, flatten(other.tensors)[0][part]), part


def tokens(family: Decoder, sample: Sample) -> int:
    """Return how many tokens the model is given for a sample."""
    (batch,) = family.batches([sample], 1)
    return int(batch["attention_mask"].sum())


def test_texts_are_cut_to_those_that_short_rotations_are_for(tmp_path: Path) -> None:
    settings = {"original_max_position_embeddings": 24}
    family, source = opened(tiny_decoder.write(tmp_path / "model", "phi3", **settings))
    assert family.max_length == 24
    (cut,) = (family.truncate("the cat sat on the mat . " * 20),)
    found = reference.outputs(family, source, [cut], CPU)
    expected = transformers_outputs(family.directory, [cut])
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-4 * np.abs(expected).max())


def test_what_does_not_fit_is_cut(tmp_path: Path) -> None:
    family, _ = opened(tiny_decoder.write(tmp_path / "model", "qwen2", max_position_embeddings=16))
    assert family.max_length == 16
    long = "the cat sat on the mat . " * 20
    cut = family.truncate(long)
    assert isinstance(cut, str) and long.startswith(cut) and tokens(family, cut) == 16
    assert family.truncate("a dog") == "a dog"
    passage = family.truncate(Passage(long, " a dog ran"))
    assert isinstance(passage, Passage) and passage.target == " a dog ran" and long.endswith(passage.context)
    assert 10 <= tokens(family, passage) <= 16
    target = family.truncate(Passage("", long))
    assert isinstance(target, Passage) and tokens(family, target) == 15


def test_a_text_that_begins_with_a_token_of_its_own_is_predicted_from_its_first_word(tmp_path: Path) -> None:
    plain, _ = opened(tiny_decoder.write(tmp_path / "plain", "llama"))
    begins, _ = opened(tiny_decoder.write(tmp_path / "begins", "llama", begins=True))
    whole = Passage("", "the cat")
    assert begins.targets(whole) == plain.tokenizer("the cat")["input_ids"]
    assert plain.targets(whole) == plain.tokenizer("the cat")["input_ids"][1:]
    with pytest.raises(InputError, match="expected a text with tokens to read and to predict"):
        plain.targets(Passage("the cat", ""))
    with pytest.raises(InputError, match="expected a text with tokens"):
        next(plain.batches([""], 1))


def test_a_head_that_is_stored_beside_the_embeddings_must_be_theirs(tmp_path: Path) -> None:
    directory = tiny_decoder.write(tmp_path / "model", "llama, tied")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    embeddings = tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": embeddings.clone()}, file, metadata={"format": "pt"})
    assert torch.equal(opened(directory)[1].load("model.embed_tokens.weight"), embeddings)
    moved = {name: value for name, value in tensors.items() if name != "model.embed_tokens.weight"}
    save_file(moved | {"lm_head.weight": embeddings.clone()}, file, metadata={"format": "pt"})
    assert torch.equal(opened(directory)[1].load("model.embed_tokens.weight"), embeddings)
    save_file(tensors | {"lm_head.weight": embeddings + 1}, file, metadata={"format": "pt"})
    with pytest.raises(
        InputError,
        match=(
            r"tensors lm_head\.weight and model\.embed_tokens\.weight are both "
            r"model\.embed_tokens\.weight and differ"
        ),
    ):
        opened(directory)


def test_how_a_model_was_sharded_in_training_changes_nothing(tmp_path: Path) -> None:
    family, source = opened(tiny_decoder.write(tmp_path / "model", "llama, tied", pretraining_tp=2))
    found, expected = (
        reference.outputs(family, source, SAMPLES, CPU),
        transformers_outputs(family.directory, SAMPLES),
    )
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-4 * np.abs(expected).max())


REFUSED = [
    ("gemma3", {"attn_logit_softcapping": 50.0}, "found attn_logit_softcapping 50.0, expected None"),
    ("gemma2", {"final_logit_softcapping": 0.0}, "found final_logit_softcapping 0, expected another number"),
    ("llama", {"hidden_act": "gelu"}, "found hidden_act 'gelu', expected 'silu'"),
    (
        "qwen2",
        {"use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]},
        "found use_sliding_window true, expected false",
    ),
    (
        "smollm3",
        {
            "use_sliding_window": True,
            "sliding_window": 8,
            "layer_types": ["full_attention"] * 3 + ["sliding_attention"],
        },
        "found use_sliding_window true, expected false: llama.cpp gives smollm3 full attention",
    ),
    ("smollm3", {"mlp_bias": True}, "found mlp_bias True, expected False: family smollm3 has no other"),
    ("llama", {"vocab_size": "many"}, "found no config of a llama"),
    ("qwen3_moe", {"norm_topk_prob": False}, "found norm_topk_prob False, expected True: family qwen3_moe"),
    (
        "qwen3_moe",
        {"mlp_only_layers": [0]},
        "found mlp_only_layers [0], expected []: family qwen3_moe",
    ),
    (
        "qwen3_moe",
        {"decoder_sparse_step": 2},
        "found decoder_sparse_step 2, expected 1: family qwen3_moe",
    ),
    ("qwen3_moe", {"num_local_experts": 1}, "found num_experts 1, expected at least 2"),
    ("qwen3_moe", {"num_local_experts": 10**9}, "found num_local_experts 1000000000, expected 0 to 4096"),
    ("qwen3_moe", {"num_experts_per_tok": 5}, "found num_experts_per_tok 5, expected 1 to 4, the number of"),
    ("olmoe", {"norm_topk_prob": True}, "found norm_topk_prob True, expected False: family olmoe has no"),
    ("olmoe", {"clip_qkv": 8.0}, "found clip_qkv 8.0, expected None: family olmoe has no other"),
    (
        "qwen3_moe",
        {"use_sliding_window": True, "sliding_window": 8},
        "found use_sliding_window true, expected false: llama.cpp gives qwen3_moe full attention",
    ),
]


@pytest.mark.parametrize(("kind", "settings", "sentence"), REFUSED)
def test_what_would_be_computed_otherwise_is_refused(
    kind: str, settings: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    directory = tiny_decoder.write(tmp_path / "model", kind)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    with pytest.raises(InputError) as error:
        open_family(directory)
    assert str(error.value).startswith(f"{path}: {sentence}")


REFUSED_IN_GGUF = [
    (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        "found rope_type 'dynamic', expected default, linear or llama3",
    ),
    (
        "qwen3",
        {"rope_parameters": tiny_decoder.LLAMA3},
        "found rope_type 'llama3', expected default or linear",
    ),
    (
        "gemma3",
        {
            "rope_parameters": {
                "full_attention": tiny_decoder.LLAMA3,
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            }
        },
        "found rope_type 'llama3', expected default or linear",
    ),
    ("qwen3", {"attention_bias": True}, "found attention_bias true, expected false"),
    ("gemma3", {"attention_bias": True}, "found attention_bias true, expected false"),
    ("gemma3", {"query_pre_attn_scalar": 64}, "found query_pre_attn_scalar 64, expected 32"),
    ("gemma2", {"query_pre_attn_scalar": 64}, "found query_pre_attn_scalar 64, expected 32"),
    ("gemma2", {"layer_types": ["full_attention"] * 2}, "found layer_types that are not a sliding one and a"),
    ("gemma2", {"attn_logit_softcapping": None}, "found attn_logit_softcapping null, expected a number"),
    ("gemma2", {"tie_word_embeddings": False}, "found tie_word_embeddings false, expected true"),
    ("gemma3", {"layer_types": ["full_attention"] * 6}, "found layer_types that are not five sliding ones"),
    ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}, "found no_rope_layers that are not three ones and a zero"),
    ("smollm3", {"attention_bias": True}, "found attention_bias true, expected false"),
    (
        "phi3",
        {"head_dim": 32, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        "found 4 heads of width 32, expected a hidden_size that is theirs together",
    ),
    ("granite", {"residual_multiplier": 0.0}, "found residual_multiplier 0, expected another number"),
    ("olmoe", {"num_key_value_heads": 2}, "found num_key_value_heads 2, expected 4, one for each head"),
    ("olmo2", {"tie_word_embeddings": True}, "found tie_word_embeddings true, expected false"),
    (
        "smollm3",
        {"rope_parameters": tiny_decoder.LLAMA3},
        "found rope_type 'llama3', expected default or linear",
    ),
]


@pytest.mark.parametrize(("kind", "settings", "sentence"), REFUSED_IN_GGUF)
def test_what_llama_cpp_has_no_key_for_is_refused_in_gguf(
    kind: str, settings: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    family = open_family(tiny_decoder.write(tmp_path / "model", kind, **settings))
    with pytest.raises(InputError, match=sentence):
        spec_of(family)
