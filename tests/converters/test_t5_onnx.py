"""T5 as ONNX: an encoder, and a decoder in three files."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from converters.t5.blocks import TABLE
from converters.t5.family import T5
from epmq_export.errors import InputError
from epmq_export.models import reference
from epmq_export.models.format import PlannedTensor
from epmq_export.models.samples import Passage, Question, Sample
from epmq_export.verification.checks import check_codes, check_graph, check_metadata
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from formats.onnx.format import OnnxQdq
from tests.converters.test_t5 import CPU, SAMPLES
from tests.tiny.onnx_encoders import notes
from tests.tiny.t5 import VERSIONS, t5, texts
from tests.tiny.t5_files import T5Files, pack, t5_files

RUNTIME, FORMAT = OnnxRuntime(), OnnxQdq()
FILES = (
    "encoder_model_q4.onnx",
    "decoder_model_q4.onnx",
    "decoder_with_past_model_q4.onnx",
    "decoder_model_merged_q4.onnx",
)
# Longer than the bias tells distances apart, so that the last bucket is reached in both halves.
LONG = Passage(" ".join(["vifo gari"] * 60), " ".join(["foro"] * 90))


def session(files: T5Files, name: str) -> Any:
    return onnxruntime.InferenceSession(files.onnx.with_name(name))


def distance(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("version", VERSIONS)
def test_scores_are_those_of_pytorch(version: str) -> None:
    file = t5_files(version)
    samples: list[Sample] = [*SAMPLES, LONG]
    expected = reference.outputs(file.family, file.packed, samples, CPU)
    for name in (FILES[0], FILES[3]):
        assert distance(RUNTIME.outputs(file.onnx.with_name(name), samples, exact=True), expected) < 1e-5
        assert distance(RUNTIME.outputs(file.onnx.with_name(name), samples), expected) < 0.1


def test_the_merged_decoder_answers_as_the_two_do() -> None:
    file = t5_files("1.1")
    asked = [Question(text, 6, tuple(file.family.ends)) for text in texts(8, 6)]
    expected = RUNTIME.outputs(file.onnx, asked)
    assert len(np.unique(expected, axis=0)) > 1
    np.testing.assert_array_equal(RUNTIME.outputs(file.onnx.with_name(FILES[3]), asked), expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_files_pass_their_checks(version: str) -> None:
    file = t5_files(version)
    assert FORMAT.find(file.onnx.parent.parent, file.family) == file.onnx
    assert tuple(path.name for path in FORMAT.open(file.onnx, file.family).files(file.family)) == FILES
    codes = check_codes(
        FORMAT.open(file.onnx, file.family), file.packed, FORMAT.left_out(file.family), [RUNTIME]
    )
    assert codes.passed and codes.facts["tensors"] == len(file.packed.names()), codes.broken
    assert check_metadata(FORMAT.open(file.onnx, file.family), file.packed).passed
    graph = check_graph(
        FORMAT.open(file.onnx, file.family), file.packed, file.family.exports["onnx"], RUNTIME, 1e-5
    )
    assert graph.passed and [*graph.facts["by_tower"]] == [f"{FILES[0]}: t5", f"{FILES[3]}: t5"], graph.broken
    # The encoder's, the decoder's, the decoder's without the keys and values of cross attention, and the
    # decoder's again.
    linears = {"1.0": 2 * 6 + 2 * 10 + 2 * 8 + 2 * 10, "1.1": 2 * 7 + 2 * 11 + 2 * 9 + 2 * 11}[version]
    assert notes(file.onnx, file.family) == {"linears": linears, "fused": linears}


@pytest.mark.parametrize("version", VERSIONS)
def test_one_by_one_equals_at_once(version: str) -> None:
    """Two texts of unlike lengths in one batch, which only a mask keeps apart; the second goes on in two
    parts of unlike size.
    """
    file = t5_files(version)
    encoder, first, after, merged = (session(file, name) for name in FILES)
    ids = np.array([[5, 9, 7, 12, 1], [8, 6, 1, 0, 0]], np.int64)
    mask = np.array([[1] * 5, [1, 1, 1, 0, 0]], np.int64)
    answer = np.array([[0, *range(4, 24)], [0, *range(30, 10, -1)]], np.int64)
    (states,) = encoder.run(["last_hidden_state"], {"input_ids": ids, "attention_mask": mask})
    given = {"encoder_attention_mask": mask, "encoder_hidden_states": states}

    def run(session: Any, feed: dict[str, Any]) -> dict[str, Any]:
        names = [value.name for value in session.get_outputs()]
        wanted = [value.name for value in session.get_inputs()]
        return dict(zip(names, session.run(names, {name: feed[name] for name in wanted}), strict=True))

    def cached(outputs: dict[str, Any]) -> dict[str, Any]:
        return {
            name.replace("present", "past_key_values"): value
            for name, value in outputs.items()
            if name != "logits"
        }

    whole = run(first, {**given, "input_ids": answer})
    nothing = {name: value[:, :, :0] for name, value in cached(whole).items()}
    for begins, goes_on in ((first, after), (merged, merged)):
        outputs = run(begins, {**given, **nothing, "input_ids": answer[:, :1]})
        cache, parts = cached(outputs), [outputs["logits"]]
        for start, end in ((1, 2), (2, 3), (3, 9), (9, 21)):
            outputs = run(goes_on, {**given, **cache, "input_ids": answer[:, start:end]})
            parts.append(outputs["logits"])
            cache |= cached(outputs)
        # At default settings what a linear is given is rounded to 8 bits, by row, so that both ways round
        # alike.
        assert distance(np.concatenate(parts, 1), whole["logits"]) < 1e-3
        for name, value in cached(whole).items():
            assert distance(cache[name], value) < 1e-3, name


def test_names_are_those_that_optimum_and_transformers_js_read() -> None:
    file = t5_files("1.0")
    both = [
        f"{layer}.{part}"
        for layer in range(2)
        for part in ("decoder.key", "decoder.value", "encoder.key", "encoder.value")
    ]
    own = [name for name in both if ".decoder." in name]
    past = [f"past_key_values.{name}" for name in both]
    begun = ["input_ids", "encoder_hidden_states", "encoder_attention_mask"]
    made = ["logits", *(f"present.{name}" for name in both)]
    expected = {
        FILES[0]: (["input_ids", "attention_mask"], ["last_hidden_state"]),
        FILES[1]: (begun, made),
        FILES[2]: (
            ["input_ids", "encoder_attention_mask", *past],
            ["logits", *(f"present.{name}" for name in own)],
        ),
        FILES[3]: ([*begun, *past], made),
    }
    for name, (inputs, outputs) in expected.items():
        graph = onnx.load(file.onnx.with_name(name)).graph
        assert ([value.name for value in graph.input], [value.name for value in graph.output]) == (
            inputs,
            outputs,
        )
        # Every weight is read, and of the cross attention's none that the cache stands for.
        assert {tensor.name for tensor in graph.initializer} <= {
            read for node in graph.node for read in node.input
        }
        assert any("EncDecAttention.k" in tensor.name for tensor in graph.initializer) == (
            name in (FILES[1], FILES[3])
        )


@pytest.mark.parametrize("version", VERSIONS)
def test_sizes_are_foretold(version: str) -> None:
    file = t5_files(version)
    planned = {
        name: PlannedTensor(
            file.packed.shape(name), file.packed.grids.get(name, file.packed.load(name).dtype)
        )
        for name in file.packed.names()
    }
    for name, sizes in FORMAT.sizes(planned, file.family, file.packed.index).items():
        stored = sum(
            len(tensor.raw_data) for tensor in onnx.load(file.onnx.parent.parent / name).graph.initializer
        )
        assert sum(size for kind, size in sizes.items() if kind != "rest") == stored


@pytest.mark.parametrize(
    ("name", "part"), [(FILES[2], "decoder.key"), (FILES[3], "decoder.value"), (FILES[3], "encoder.key")]
)
def test_a_cache_that_is_wrong_shows_in_the_graph_check(name: str, part: str, tmp_path: Path) -> None:
    """Zeros for a part: the file's codes are as they were, and a run of all tokens at once never sees it."""
    file = t5_files("1.0")
    shutil.copytree(file.onnx.parent.parent, tmp_path / "copy")
    path = tmp_path / "copy" / "onnx" / FILES[0]
    model = onnx.load(path.with_name(name))
    past = f"past_key_values.0.{part}"
    (concat,) = (node for node in model.graph.node if node.op_type == "Concat" and past in node.input)
    concat.input[[*concat.input].index(past)] = "wrong"
    model.graph.node.insert(0, onnx.helper.make_node("Sub", [past] * 2, ["wrong"]))
    onnx.save(model, path.with_name(name))
    check = check_graph(
        FORMAT.open(path, file.family), file.packed, file.family.exports["onnx"], RUNTIME, 1e-5
    )
    assert not check.passed and "difference between onnxruntime and PyTorch" in check.broken[0]


def test_passages_without_tokens_to_predict_are_no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tokenizer that makes one token of all that it does not know finds none in some."""
    file = t5_files("1.0")
    whole = check_graph(
        FORMAT.open(file.onnx, file.family), file.packed, file.family.exports["onnx"], RUNTIME, 1e-5
    )
    kept = T5.targets

    def targets(family: T5, passage: Passage) -> list[int]:
        if passage.context.startswith("Is the sky"):
            raise InputError("found nothing to predict")
        return kept(family, passage)

    monkeypatch.setattr(T5, "targets", targets)
    fewer = check_graph(
        FORMAT.open(file.onnx, file.family), file.packed, file.family.exports["onnx"], RUNTIME, 1e-5
    )
    assert fewer.passed and fewer.facts["samples"] == whole.facts["samples"] - 2  # both decoders are given it


def test_what_lies_beside_the_encoder_is_needed(tmp_path: Path) -> None:
    shutil.copytree(t5_files("1.0").onnx.parent.parent, tmp_path / "copy")
    path = tmp_path / "copy" / "onnx" / FILES[0]
    config = tmp_path / "copy" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "decoder_start_token_id": None}))
    with pytest.raises(
        InputError, match=r"config\.json: found decoder_start_token_id None, expected the token"
    ):
        RUNTIME.outputs(path, ["vifo"])
    shutil.copy(t5_files("1.0").onnx.parent.parent / "config.json", config)
    path.rename(path.with_name("away"))
    with pytest.raises(InputError, match=r"encoder_model_q4\.onnx: ONNX Runtime refuses it"):
        RUNTIME.outputs(path.with_name(FILES[3]), ["vifo"])
    path.with_name("away").rename(path)
    path.with_name(FILES[1]).unlink()
    with pytest.raises(InputError, match=r"decoder_model_q4\.onnx: ONNX Runtime refuses it"):
        RUNTIME.outputs(path, ["vifo"])


def test_either_of_the_two_decoders_alone_gives_no_scores() -> None:
    path = t5_files("1.0").onnx
    for name in FILES[1:3]:
        with pytest.raises(InputError, match=rf"{name}: found a decoder alone, expected .*encoder_model"):
            RUNTIME.outputs(path.with_name(name), ["vifo"])


def test_buckets_are_the_librarys(tmp_path: Path) -> None:
    """Also of distances past the table, whose tokens share the last bucket."""
    from transformers.models.t5.modeling_t5 import T5Attention

    family = T5.open(t5(tmp_path / "model"))
    for stack in ("encoder", "decoder"):
        layer = family.layers(stack)[0]  # type: ignore[arg-type]
        module = layer.build().to_empty(device="cpu")
        embedding = module.get_submodule(TABLE)
        table = embedding.get_parameter("weight")
        torch.nn.init.normal_(table)
        places = torch.arange(300)
        attention: Any = T5Attention
        expected = table[
            attention._relative_position_bucket(places[None] - places[:, None], stack == "encoder", 32, 128)
        ].permute(2, 0, 1)[None]
        assert torch.equal(layer.bias(embedding, places, 300), expected)
        assert torch.equal(layer.bias(embedding, places[250:], 300), expected[:, :, 250:])


@pytest.mark.parametrize("version", VERSIONS)
def test_embeddings_and_heads_on_a_grid(version: str, tmp_path: Path) -> None:
    held, family = pack(t5(tmp_path / "model", version, depths=(2, 2)), "Q8_0")
    (tmp_path / "out").mkdir()
    path = FORMAT.write(held, family, tmp_path / "out")
    assert check_codes(FORMAT.open(path, family), held, FORMAT.left_out(family), [RUNTIME]).passed
    graph = check_graph(FORMAT.open(path, family), held, family.exports["onnx"], RUNTIME, 1e-5)
    assert graph.passed, graph.broken
    told = notes(path, family)
    # A head is a linear in each of the decoder's files, be it tied or not.
    assert (
        told["fused"] == told["linears"] == 2 * {"1.0": 6 + 10 + 8 + 10, "1.1": 7 + 11 + 9 + 11}[version] + 3
    )
