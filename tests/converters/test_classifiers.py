"""Classifiers of BERT's kinds that share one encoder, beside transformers' own classes, in PyTorch and in the
runtimes that read the files.
"""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from transformers import AutoTokenizer

from converters import open_family
from epmq_export.errors import InputError
from epmq_export.grids import Grid
from epmq_export.models import reference
from epmq_export.models.classifiers import CLASSES as FILE
from epmq_export.models.classifiers import WEIGHTS, Classifier, columns_of, read_classifiers
from epmq_export.models.family import Run, heads_of
from epmq_export.models.format import PlannedTensor
from epmq_export.models.hard_texts import HARD_TEXTS
from epmq_export.models.samples import Sample
from epmq_export.tensors.packed import stored_bytes
from epmq_export.verification.checks import check_codes, check_graph, check_metadata, rms_relative
from epmq_export.verification.probes import probes
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime, open_session
from formats.gguf.format import Gguf
from formats.onnx.clients import as_clients_read
from formats.onnx.companions import files_beside
from formats.onnx.format import OnnxQdq
from formats.safetensors.format import Safetensors
from tests.tiny.classifiers import CLASSES, PAIRS, TEXTS, Classified, classified, scores

CPU = torch.device("cpu")
# What their configs say besides; those of ModernBERT say what a head computes.
KINDS: dict[str, dict[str, object]] = {
    "bert": {},
    "roberta": {},
    "distilbert": {},
    "modernbert": {"classifier_pooling": "mean", "classifier_bias": True, "classifier_activation": "silu"},
}


@pytest.fixture(scope="module", params=KINDS)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Classified:
    return classified(tmp_path_factory.mktemp(request.param), request.param, **KINDS[request.param])


def test_each_head_gives_what_its_expert_gives(project: Classified) -> None:
    models = project.opened
    family = models.family
    assert [head.classes for head in heads_of(family)] == [*CLASSES.values()]
    for name, columns in columns_of(heads_of(family)).items():
        expert = models.experts[str(project.directory / name)]
        found = reference.outputs(family, expert, TEXTS, CPU)[:, columns]
        expected = scores(project.directory / name, project.base, TEXTS).numpy()
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_pairs_are_read_as_transformers_reads_them(project: Classified) -> None:
    """A BERT tells the second text by the types of its tokens, the others by what stands before it."""
    models = project.opened
    family, samples = models.family, [*PAIRS, *TEXTS]
    expert, columns = models.experts[str(project.directory / "mood")], columns_of(heads_of(family))["mood"]
    found = reference.outputs(family, expert, samples, CPU)[:, columns]
    expected = scores(project.directory / "mood", project.base, samples).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-5)
    cut = [family.truncate(pair) for pair in PAIRS]
    found = reference.outputs(family, expert, cut, CPU)[:, columns]
    np.testing.assert_allclose(found, expected[: len(PAIRS)], atol=2e-5)
    joined, export = [f"{pair.first} [SEP] {pair.second}" for pair in PAIRS[:2]], family.exports["gguf"]
    if family.name == "bert":
        alike = reference.outputs(family, expert, joined, CPU)[:, columns]
        assert np.abs(alike - expected[:2]).max() > 1e-2  # That is what the types tell.
        with pytest.raises(InputError, match=r"found pairs of texts, .* gives all tokens the first one"):
            export.as_read(lambda texts: found, project.directory / "x")(PAIRS)


def test_mpnets_heads_are_read_as_transformers_reads_them(tmp_path: Path) -> None:
    found = classified(tmp_path, "mpnet")
    family, source = found.opened.family, found.opened.experts[str(tmp_path / "mood")]
    samples = [*TEXTS, *PAIRS]
    given = reference.outputs(family, source, samples, CPU)[:, columns_of(heads_of(family))["mood"]]
    np.testing.assert_allclose(given, scores(tmp_path / "mood", found.base, samples).numpy(), atol=2e-5)


def test_all_models_have_the_experts_heads(project: Classified) -> None:
    """The base, which was no classifier, is read by the same heads as the merge."""
    models = project.opened
    for name in (name for name in models.merged.names() if name.startswith("classifiers.")):
        values = [source.load(name) for source in (models.base, models.merged, *models.experts.values())]
        assert all(torch.equal(values[0], other) for other in values)
        assert name in models.frozen


def test_onnx_has_the_scores_of_each_task(project: Classified, tmp_path: Path) -> None:
    packed, family = project.packed, open_family(project.packed.directory)
    if family.name not in ("distilbert", "modernbert"):  # A whole run writes BERT's; RoBERTa's is like it.
        return
    path = OnnxQdq().write(packed, family, tmp_path)
    outputs = [value.name for value in open_session(path).get_outputs()]
    assert outputs == ["last_hidden_state", "logits_mood", "logits_topic"]
    written = OnnxQdq().open(path, family)
    assert check_codes(written, packed, frozenset(), [OnnxRuntime()]).passed
    assert check_metadata(written, packed).passed
    graph = check_graph(written, packed, family.exports["onnx"], OnnxRuntime(), 1e-4)
    assert graph.passed and graph.facts["samples"] == len(probes(family)) > len(HARD_TEXTS), graph.broken
    samples = [*PAIRS, *TEXTS]
    found = OnnxRuntime().outputs(path, [*map(family.truncate, samples)], exact=True)
    np.testing.assert_allclose(found, reference.outputs(family, packed, samples, CPU), atol=1e-4)
    assert json.loads((tmp_path / FILE).read_text()) == {name: [*names] for name, names in CLASSES.items()}


def test_gguf_has_the_heads_beside_it(project: Classified, tmp_path: Path) -> None:
    packed, family = project.packed, open_family(project.packed.directory)
    path = Gguf().write(packed, family, tmp_path)
    written, export = Gguf().open(path, family), family.exports["gguf"]
    assert check_codes(written, packed, Gguf().left_out(family), [LlamaCpp()]).passed
    assert check_metadata(written, packed).passed
    assert [*written.files(family)] == [path, tmp_path / WEIGHTS]
    # llama.cpp gives the first tokens' states, with its own form of GELU, and the heads beside it read them.
    twin, states = written.exact(path, tmp_path), reference.outputs(export.computed(), packed, TEXTS, CPU)
    run = partial(LlamaCpp().outputs, twin, exact=True)
    assert rms_relative(run(TEXTS), states) < 1e-3
    expected = export.as_read(lambda texts: states, path)(TEXTS)
    assert rms_relative(export.as_read(run, path)(TEXTS), expected) < 1e-3
    np.testing.assert_allclose(expected, reference.outputs(family, packed, TEXTS, CPU), atol=2e-2)
    if family.name != "bert":
        _reads_pairs(path, run, project)
    heads = tmp_path / WEIGHTS
    with safe_open(heads, "pt") as file:
        assert json.loads(file.metadata()["classes"]) == {name: [*names] for name, names in CLASSES.items()}
    _notices(path, heads, project)


def _reads_pairs(path: Path, run: Run, project: Classified) -> None:
    """Hold the tokens of pairs in llama.cpp against transformers', and the outputs against PyTorch's."""
    family = open_family(project.packed.directory)
    export, tokenizer = family.exports["gguf"], AutoTokenizer.from_pretrained(project.base)
    assert export.joined is not None
    expected = [tokenizer(pair.first, pair.second)["input_ids"] for pair in PAIRS]
    assert LlamaCpp().tokens(path, [*map(export.joined, PAIRS)]) == expected
    samples: list[Sample] = [*map(family.truncate, PAIRS), TEXTS[0]]
    states = reference.outputs(export.computed(), project.packed, samples, CPU)
    found = export.as_read(run, path)(samples)
    assert rms_relative(found, export.as_read(lambda given: states, path)(samples)) < 1e-3


def _notices(path: Path, heads: Path, project: Classified) -> None:
    """Change the file of the heads, and then remove it."""
    packed, family = project.packed, open_family(project.packed.directory)
    written = Gguf().open(path, family)
    beside, whole, tensors = family.exports["gguf"].heads_beside, heads.read_bytes(), load_file(heads)
    assert beside is not None
    foreign = {name.replace("mood", "other"): value for name, value in tensors.items()}
    for content, sentence in (
        (whole[:-9], "not whole and well-formed safetensors"),
        (whole[:5], "not whole and well-formed safetensors"),
        (save(foreign), r"no tensor mood\.dense\.weight"),
        (
            save({**tensors, "mood.out.bias": torch.zeros(7)}),
            r"mood\.out\.bias has shape \[7\], expected \[3\]",
        ),
    ):
        heads.write_bytes(content)
        assert written.differences(packed) == [f"{WEIGHTS} differs from the packed checkpoint"]
        with pytest.raises(InputError, match=rf"{WEIGHTS}: .*{sentence}"):
            beside(written.path)
    heads.unlink()
    read = family.exports["gguf"].as_read(lambda texts: np.zeros((len(texts), 64), np.float32), written.path)
    with pytest.raises(
        InputError, match=f"{WEIGHTS}: no such file"
    ):  # Its run fails, and not the verification.
        read(TEXTS)
    assert written.differences(packed) == [f"{WEIGHTS} is missing"]


def test_sizes_are_known_before(project: Classified, tmp_path: Path) -> None:
    """Heads are in half precision, so that those of many tasks are no larger than what they read."""
    packed, family = project.packed, open_family(project.packed.directory)
    planned = {name: PlannedTensor(packed.shape(name), packed.storage(name)) for name in packed.names()}
    heads = {name: packed.storage(name) for name in packed.names() if name.startswith("classifiers.")}
    assert {str(each) for each in heads.values() if not isinstance(each, Grid)} == {
        "torch.float16",
        "torch.float32",
    }
    found = Gguf().sizes(planned, family, packed.index)[WEIGHTS]
    Gguf().write(packed, family, tmp_path)
    data = sum(stored_bytes(packed.shape(name), storage) for name, storage in heads.items())
    assert sum(found.values()) - found["rest"] == data
    assert sum(found.values()) == pytest.approx((tmp_path / WEIGHTS).stat().st_size, rel=0.05)


def test_a_directory_of_safetensors_has_all(project: Classified, tmp_path: Path) -> None:
    packed, family = project.packed, open_family(project.packed.directory)
    path = Safetensors().write(packed, family, tmp_path)
    written = Safetensors().open(path, family)
    assert check_codes(written, packed, frozenset(), []).passed and not written.differences(packed)
    assert heads_of(open_family(tmp_path)) == heads_of(family)


def test_what_sentence_transformers_reads_is_no_classifiers(project: Classified, tmp_path: Path) -> None:
    """Its files promise an embedding, and what they say of texts is not what transformers does with them."""
    if project.opened.family.name != "roberta":  # whose pieces know capital letters
        return
    place = tmp_path / "packed"
    shutil.copytree(project.packed.directory, place)
    modules = [
        {"type": f"models.{name}", "path": path}
        for name, path in (("Transformer", ""), ("Pooling", "1_Pooling"))
    ]
    (place / "modules.json").write_text(json.dumps(modules))
    (place / "config_sentence_transformers.json").write_text("{}")
    (place / "sentence_bert_config.json").write_text('{"max_seq_length": 4, "do_lower_case": true}')
    names = {
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    }
    family, text = open_family(place), "The CAT sat ON the mat"
    assert family.truncate(text) == text and names.isdisjoint(files_beside(place, family, "_q4.onnx", []))
    (ids,) = (batch["input_ids"][0].tolist() for batch in family.batches([text], 1))
    assert ids == AutoTokenizer.from_pretrained(place)(text)["input_ids"]
    (place / FILE).unlink()
    encoder = open_family(place)
    assert encoder.truncate(text) != text and names <= files_beside(place, encoder, "_q4.onnx", []).keys()


def test_one_classifier_has_the_usual_name(project: Classified) -> None:
    family = open_family(project.base)
    assert family.classifiers is not None and not heads_of(family)
    alone = family.classifiers.read_by([Classifier("mood", ("a", "b"))])
    (spec,) = alone.exports["onnx"].specs().values()  # type: ignore[attr-defined]
    assert [*spec.outputs] == ["last_hidden_state", "logits"]
    companions = {"config.json": (project.base / "config.json").read_bytes()}
    told = as_clients_read(project.base, companions, alone, ["onnx/model_q4.onnx"], [])
    assert json.loads(told["config.json"])["id2label"] == {"0": "a", "1": "b"}


@pytest.mark.parametrize("content", ['{"mood": []}', '{"mood": "bad"}', '{"mood": [1]}'])
def test_a_file_that_names_no_classes_is_refused(tmp_path: Path, content: str) -> None:
    assert read_classifiers(tmp_path) == ()
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InputError, match="expected a list of classes' names"):
        read_classifiers(tmp_path)
