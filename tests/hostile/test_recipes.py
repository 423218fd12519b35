"""Recipes that are wrong: each is one sentence with its line, and no mistake, however odd, is a traceback."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epmq_export.errors import RecipeError
from epmq_export.recipe.load import load_recipe
from epmq_export.recipe.recipe import Recipe

HEAD = "base_model: org/base\nmodels: [{model: org/a}, {model: org/b}]\n"  # what follows begins on line 3
TASK = (
    HEAD + "tasks:\n  mood:\n    expert: org/a\n    calibration: data/mood.tsv\n"
)  # what follows begins on line 7
PAIRS = TASK.replace("data/mood.tsv", "{dataset: org/d, texts: [a, b]}") + "    prompt: '{a} {b}'\n"
LABELLED = TASK + "    evaluation: data/mood.tsv\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "data").mkdir()
    (folder / "experts" / "sst2").mkdir(parents=True)
    (folder / "data" / "mood.tsv").write_text("0\tso it goes\n")
    (folder / "data" / "weights.bin").write_bytes(b"\x80\x02")
    (folder / "data" / "broken.json").write_text('["a", ')
    (folder / "data" / "numbers.json").write_text("[1, 2]")
    (folder / "data" / "scalar.json").write_text("3")
    (folder / "data" / "half.json").write_text('{"a": "\\ud800", "b": "b"}')
    (folder / "data" / "deep.json").write_text("[" * 100_000)
    return folder


def refusal(folder: Path, content: str | bytes) -> str:
    """The sentence, without the folder."""
    path = folder / "recipe.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert message.startswith(f"{folder}/recipe.yaml:")
    assert "\n" not in message
    return message.removeprefix(f"{folder}/")


SLICE = """base_model: org/base
slices:
  - sources:
      - {model: org/base, layer_range: [0, 2]}
      - {model: org/a, layer_range: [0, 2]}
"""
NOT_A_RECIPE: list[tuple[str | bytes, int, str]] = [
    ("", 1, "the file is empty, expected a recipe"),
    ("# nothing but a comment\n", 1, "the file is empty, expected a recipe"),
    ("- base_model\n", 1, "found a list at the top level, expected a mapping of recipe keys"),
    ("\n\nbase_model\n", 3, "found 'base_model' at the top level, expected a mapping of recipe keys"),
    (b"base_model: org/base\n# caf\xe9\n", 2, "found byte 0xe9, expected text in UTF-8"),
    ("base_model: org/base".encode("utf-16"), 1, "found byte 0xff, expected text in UTF-8"),
    ("base_model: a\x00b\n", 1, "not valid YAML: character 0 is not allowed"),
    ("a: 1\nb: \x07\n", 2, "not valid YAML: character 7 is not allowed"),
    ("calibration:\n\tsamples: 3\n", 2, "not valid YAML: found a tab, expected spaces for indentation"),
    (
        "models: [org/a\nverify: {}\n",
        2,
        "not valid YAML: while parsing a flow sequence expected ',' or ']', but got ':'",
    ),
    ("a: b: c\n", 1, "not valid YAML: mapping values are not allowed here"),
    ("a: 'x\n", 2, "not valid YAML: while scanning a quoted scalar found unexpected end of stream"),
    (
        "a: 1\n---\nb: 2\n",
        2,
        "not valid YAML: expected a single document in the stream but found another document",
    ),
    (
        "base_model: x\nverify: {}\nbase_model: y\n",
        3,
        "base_model: found the key a second time, first on line 1, expected it once",
    ),
    (
        "verify:\n  graph: 1\n  graph: 2\n",
        3,
        "verify.graph: found the key a second time, first on line 2, expected it once",
    ),
    ("? [a, b]\n: c\n", 1, "found a list or mapping as a key, expected a name"),
    ("a: &x {b: c}\nd:\n  <<: *x\n", 3, "found a merge key '<<', expected the keys written out"),
    ("a: *nowhere\n", 1, "not valid YAML: found undefined alias 'nowhere'"),
    ("a: &x [*x]\n", 1, "lists and mappings are nested too deeply for a recipe"),
    ("a: " + "[" * 50_000, 1, "lists and mappings are nested too deeply for a recipe"),
    (
        "a: 1\nb: !!python/object/apply:os.system [id]\n",
        2,
        "found the tag 'tag:yaml.org,2002:python/object/apply:os.system', expected plain YAML without tags",
    ),
    ("a: !mine x\n", 1, "found the tag '!mine', expected plain YAML without tags"),
    ("a: !!int many\n", 1, "found 'many', expected a finite number"),
    ("a: !!bool many\n", 1, "found 'many', expected true or false"),
    ('a: "\\ud800"\n', 1, "found half of a surrogate pair in '\\ud800', expected text"),
    ('"\\udc00": a\n', 1, "found half of a surrogate pair in '\\udc00', expected text"),
    ("a: 1e999\n", 1, "found '1e999', expected a finite number"),
    ("a: " + "9" * 5000 + "\n", 1, f"found '{'9' * 60}', expected a finite number"),
]


@pytest.mark.parametrize(("content", "line", "sentence"), NOT_A_RECIPE, ids=range(len(NOT_A_RECIPE)))
def test_files_that_are_no_recipe(folder: Path, content: str | bytes, line: int, sentence: str) -> None:
    assert refusal(folder, content) == f"recipe.yaml:{line}: {sentence}"


def test_an_alias_bomb_is_refused_before_it_goes_off(folder: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 20)
    )
    assert refusal(folder, bomb).startswith("recipe.yaml:1: aliases or lists make more than 100000 values")


WRONG_VALUES = [
    (
        HEAD + "calibration: {methd: epmq}",
        "3: calibration.methd: found an unknown key, expected one of method, samples, alpha, rho, lambda, "
        "seed, tune, refine, did you mean 'method'?",
    ),
    (
        HEAD + "calibration:\n  damping: 1",
        "4: calibration.damping: found an unknown key, expected one of method, samples, alpha, rho, lambda, "
        "seed, tune, refine",
    ),
    (
        HEAD + "verfy: {}",
        "3: verfy: found an unknown key, expected one of base_model, merge_method, merge_convention, "
        "models, slices, modules, parameters, dtype, out_dtype, tokenizer_source, tokenizer, "
        "chat_template, tasks, frozen, calibration, "
        "quantization, export, verify, did you mean 'verify'?",
    ),
    (
        "base_modle: org/base\nmodels: [{model: org/a}]",
        "1: base_modle: found an unknown key, expected one of base_model, merge_method, merge_convention, "
        "models, slices, modules, parameters, dtype, out_dtype, tokenizer_source, "
        "tokenizer, chat_template, tasks, frozen, calibration, quantization, export, verify, did you mean "
        "'base_model'?",
    ),
    (
        "base_model: org/b\nmodels:\n  - model: org/a\n  - modle: org/b",
        "4: models[1].modle: found an unknown key, expected one of model, parameters, did you mean 'model'? "
        "(and 1 more mistake)",
    ),
    (
        TASK + "    expertt: x",
        "7: tasks.mood.expertt: found an unknown key, expected one of expert, calibration, labels, prompt, "
        "metric, templates, head, evaluation, did you mean 'expert'?",
    ),
    (
        HEAD + "tokenizer_source: org/aa",
        "3: tokenizer_source: found 'org/aa', expected 'base', 'union' or one of the models, did you mean "
        "'org/a'?",
    ),
    (
        HEAD + "tokenizer: {source: org/aa}",
        "3: tokenizer.source: found 'org/aa', expected 'base', 'union' or one of the models, did you mean "
        "'org/a'?",
    ),
    (
        HEAD + "tokenizer_source: base\ntokenizer: {source: base}",
        "4: tokenizer: found it beside tokenizer_source, expected one of them",
    ),
    (
        HEAD + "tokenizer: {sauce: union}",
        "3: tokenizer.sauce: found an unknown key, expected one of source, tokens, pad_to_multiple_of, did "
        "you mean 'source'?",
    ),
    (
        HEAD + "tokenizer: {pad_to_multiple_of: 0}",
        "3: tokenizer.pad_to_multiple_of: found 0, expected at least 1",
    ),
    (
        HEAD + "tokenizer: {tokens: {<x>: {source: org/aa}}}",
        "3: tokenizer.tokens.<x>.source: found 'org/aa', expected one of the models, did you mean 'org/a'?",
    ),
    (
        HEAD + "tokenizer: {tokens: {<x>: {force: 1}}}",
        "3: tokenizer.tokens.<x>.force: found 1, expected true or false",
    ),
    (
        HEAD + "tokenizer: {tokens: {<x>: {from: org/a}}}",
        "3: tokenizer.tokens.<x>.from: found an unknown key, expected one of source, force",
    ),
    (
        HEAD + "tokenizer: {tokens: {<x>: {source: {kind: one}}}}",
        "3: tokenizer.tokens.<x>.source: found kind 'one', expected a model, {kind: zero}, or "
        "{kind: model_token, model: ..., token: ...} (or token_id)",
    ),
    (
        HEAD + "tokenizer: {tokens: {<x>: {source: 3}}}",
        "3: tokenizer.tokens.<x>.source: found 3, expected a model, {kind: zero}, or "
        "{kind: model_token, model: ..., token: ...} (or token_id)",
    ),
    (
        HEAD + "slices: [{sources: [{model: org/a, layer_range: [0, 2]}]}]",
        "3: slices: found it beside models, expected one of models, slices, modules",
    ),
    (
        SLICE.replace("a, layer_range: [0, 2]", "a, layer_range: [2, 2]"),
        "5: slices[0].sources[1].layer_range: found [2, 2], expected [first, last + 1], such as [0, 16]",
    ),
    (
        SLICE.replace("a, layer_range: [0, 2]", "a, layer_range: [2]"),
        "5: slices[0].sources[1].layer_range: found a list, expected [first, last + 1], such as [0, 16]",
    ),
    (
        SLICE.replace("a, layer_range: [0, 2]", "a, layer_range: [-1, 2]"),
        "5: slices[0].sources[1].layer_range[0]: found -1, expected at least 0",
    ),
    (
        SLICE.replace("a, layer_range: [0, 2]", "a, layer_range: [0, two]"),
        "5: slices[0].sources[1].layer_range[1]: found 'two', expected a whole number",
    ),
    (
        SLICE.replace("a, layer_range: [0, 2]", "a"),
        "5: slices[0].sources[1].layer_range: found nothing, expected this key",
    ),
    (
        SLICE.replace("a, layer_range", "a, layers"),
        "5: slices[0].sources[1].layers: found an unknown key, expected one of model, layer_range, "
        "parameters (and 1 more mistake)",
    ),
    (
        SLICE.replace("sources", "source"),
        "3: slices[0].source: found an unknown key, expected one of sources, base_model, parameters, did "
        "you mean 'sources'? (and 1 more mistake)",
    ),
    (SLICE + "  - sources: []", "6: slices[1].sources: found an empty list, expected at least 1"),
    (
        SLICE + "  - sources: [{model: org/a, layer_range: [0, 2]}]",
        "6: slices[1].sources: found no layers of the base 'org/base', expected them among the sources: "
        "tsvm needs them",
    ),
    (
        SLICE + "  - sources: [{model: org/base, layer_range: [0, 2]}, {model: org/a, layer_range: [1, 2]}]",
        "6: slices[1].sources: found sources of 2 and 1 layers, expected the same number of each",
    ),
    (
        SLICE
        + "  - sources: [{model: org/base, layer_range: [0, 2]}, {model: org/base, layer_range: [2, 4]}]",
        "6: slices[1].sources[1].model: found 'org/base' again, "
        "expected each model once (sources[0] is the same)",
    ),
    (
        SLICE + "    parameters: {weight: [{filtre: a, value: 1}]}",
        "6: slices[0].parameters.weight: found an entry with filtre, value, expected a number, true or "
        "false, "
        "a list of numbers over the layers, or a list of filter and value",
    ),
    (
        "base_model: org/b\nslices: [{sources: [{model: org/b, layer_range: [0, 1]}]}]",
        "2: slices: found only the base, expected an expert",
    ),
    (
        "base_model: org/b\nmodules: {default: {}}",
        "2: modules.default: found neither models nor slices, expected one of them",
    ),
    (
        "base_model: org/b\nmodules: {default: {model: []}}",
        "2: modules.default.model: found an unknown key, expected one of models, slices, parameters, did "
        "you mean 'models'?",
    ),
    (
        "base_model: org/b\nmodules:\n  default:\n    models:\n      - model: org/a\n      - model: org/a",
        "6: modules.default.models[1].model: found 'org/a' again, "
        "expected each model once (models[0] is the same)",
    ),
    (
        "base_model: org/b\nmodules: {'': {models: [{model: org/a}]}}",
        "2: modules.: found an empty name, expected the first part of tensors' names, or 'default' for all "
        "the rest",
    ),
    (
        HEAD + "parameters: {weight: }",
        "3: parameters.weight: found nothing, expected a number, true or false, a list of numbers over the "
        "layers, or a list of filter and value",
    ),
    (
        HEAD + "parameters: {weight: [1, {value: 2}]}",
        "3: parameters.weight: found 1, expected a number, true or false, a list of numbers over the "
        "layers, or a list of filter and value",
    ),
    (
        HEAD + "parameters: {weight: {filter: 3, value: 1}}",
        "3: parameters.weight: found the filter 3, expected a part of a tensor's name",
    ),
    (HEAD + "calibration: {samples: many}", "3: calibration.samples: found 'many', expected a whole number"),
    (HEAD + "calibration: {samples: 1.5}", "3: calibration.samples: found 1.5, expected a whole number"),
    (HEAD + "calibration: {samples: '8'}", "3: calibration.samples: found '8', expected a whole number"),
    (HEAD + "calibration: {samples: true}", "3: calibration.samples: found true, expected a whole number"),
    (HEAD + "calibration: {samples: }", "3: calibration.samples: found nothing, expected a whole number"),
    (HEAD + "calibration:\n  seed: 1\n  samples: 0", "5: calibration.samples: found 0, expected at least 1"),
    (HEAD + "calibration:\n  lambda: -0.1", "4: calibration.lambda: found -0.1, expected at least 0"),
    (
        HEAD + f"calibration: {{rho: {'9' * 400}}}",
        f"3: calibration.rho: found {'9' * 57}..., expected 'auto' or a number of at least 0",
    ),
    (HEAD + "calibration: {alpha: 1.5}", "3: calibration.alpha: found 1.5, expected at most 1"),
    (HEAD + "calibration: {seed: -1}", "3: calibration.seed: found -1, expected at least 0"),
    (
        HEAD + "calibration: {method: featcat}",
        "3: calibration.method: found 'featcat', expected one of rtn, gptq, regmean, epmq, featcal, "
        "anchored, did you mean 'featcal'?",
    ),
    (
        HEAD + "calibration: {method: rtn, lambda: 1}",
        "3: calibration.lambda: found 1, which method 'rtn' does not use, expected the key left out",
    ),
    (
        HEAD + "calibration: {method: gptq, rho: 1}",
        "3: calibration.rho: found 1, which method 'gptq' does not use, expected the key left out",
    ),
    (
        HEAD + "quantization: {grid: q4_0}",
        "3: quantization.grid: found 'q4_0', expected one of Q2_K, Q3_K, Q4_0, Q4_1, Q4_1Z, IQ4_NL, Q4_K, "
        "Q5_0, Q5_K, Q6_K, Q8_0, did you mean 'Q4_0'?",
    ),
    (HEAD + "quantization: {bits: 0}", "3: quantization.bits: found 0, expected a number above 0"),
    (
        HEAD + "quantization: {bits: 5, grid: Q4_K}",
        "3: quantization.grid: found a grid beside bits, which choose one for each linear, expected one of "
        "the two keys",
    ),
    (
        HEAD + "quantization: {bits: 4}",
        "3: quantization.bits: found 4, expected at least 4.5, which ONNX takes: or leave it out of "
        "export.formats",
    ),
    (
        HEAD + "quantization: {onnx_grid: Q4_K}",
        "3: quantization.onnx_grid: found 'Q4_K', expected one of Q4_0, Q4_1Z, Q8_0, did you mean 'Q4_0'?",
    ),
    (
        HEAD + "quantization: {overrides: {'*.query.*': q8_0}}",
        "3: quantization.overrides.*.query.*: found 'q8_0', expected one of F16, F32, Q2_K, Q3_K, Q4_0, "
        "Q4_1, Q4_1Z, IQ4_NL, Q4_K, Q5_0, Q5_K, Q6_K, Q8_0, did you mean 'Q8_0'?",
    ),
    (
        HEAD + "quantization: {overrides: [Q8_0]}",
        "3: quantization.overrides: found a list, expected a mapping",
    ),
    (
        HEAD + "quantization: {embeddings: int4}",
        "3: quantization.embeddings: found 'int4', expected one of F16, F32, Q2_K, Q3_K, Q4_0, Q4_1, Q4_1Z, "
        "IQ4_NL, Q4_K, Q5_0, Q5_K, Q6_K, Q8_0",
    ),
    (HEAD + "quantization: {keep: pooler}", "3: quantization.keep: found 'pooler', expected a list"),
    (
        HEAD + "export: {formats: [gguf, onxx]}",
        "3: export.formats[1]: found 'onxx', expected one of gguf, onnx, did you mean 'onnx'?",
    ),
    (HEAD + "export: {formats: [gguf, gguf]}", "3: export.formats: found 'gguf' twice, expected it once"),
    (HEAD + "export: {formats: []}", "3: export.formats: found an empty list, expected at least 1"),
    (HEAD + "export:\n  formats: gguf", "4: export.formats: found 'gguf', expected a list"),
    (HEAD + "verify: {graph: .inf}", "3: verify.graph: found '.inf', expected a number"),
    (HEAD + "verify: {graph: 0}", "3: verify.graph: found 0, expected a number above 0"),
    (HEAD + "verify: {tasks: 2}", "3: verify.tasks: found 2, expected at most 1"),
    (HEAD + "verify:", "3: verify: found nothing, expected a mapping"),
    (
        HEAD + "dtype: float",
        "3: dtype: found 'float', expected one of float32, float16, bfloat16, did you mean 'float32'?",
    ),
    (HEAD + "merge_method: ' '", "3: merge_method: found empty text, expected a name"),
    (HEAD + "parameters: [1]", "3: parameters: found a list, expected a mapping"),
    (
        HEAD + "verify: {graph: a, tasks: b, agreement: c}",
        "3: verify.graph: found 'a', expected a number (and 2 more mistakes)",
    ),
    (
        HEAD + "verify: {graph: a}\ntasks: {x: {expert: org/a}}",
        "3: verify.graph: found 'a', expected a number (and 1 more mistake)",
    ),
    ("models: {model: org/a}\nbase_model: org/b", "1: models: found a mapping, expected a list"),
    ("models: [org/a]\nbase_model: org/b", "1: models[0]: found 'org/a', expected a mapping"),
    (
        "base_model: org/b",
        "1: models: found none, expected the models to merge, or tasks that name their experts",
    ),
    ("base_model: org/b\nmodels: [{model: org/b}]", "2: models: found only the base, expected an expert"),
    (
        "models: [{model: org/b}]",
        "1: base_model: found nothing, expected the model that the experts were fine-tuned from",
    ),
    (
        "base_model: org/b\nmodels:\n - model: org/a\n - model: org/a",
        "4: models[1].model: found 'org/a' again, expected each model once (models[0] is the same)",
    ),
    ("base_model: 3\nmodels: [{model: org/a}]", "1: base_model: found 3, expected text"),
    (
        "base_model: a/b/c\nmodels: [{model: org/a}]",
        "1: base_model: found 'a/b/c', expected a model directory or a hub id",
    ),
    (
        "base_model: ./experts/sst\nmodels: [{model: org/a}]",
        "1: base_model: found no model directory './experts/sst', expected one, relative to the recipe, did "
        "you mean './experts/sst2'?",
    ),
    (
        "base_model: data/mood.tsv\nmodels: [{model: org/a}]",
        "1: base_model: found the file 'data/mood.tsv', expected the directory of a model, or a GGUF file",
    ),
    (
        "base_model: org/b+./gone\nmodels: [{model: org/a}]",
        "1: base_model: found no model directory './gone', expected one, relative to the recipe",
    ),
    (
        HEAD + "tasks:\n  mood:\n    expert: org/a\n    calibration: data/mod.tsv",
        "6: tasks.mood.calibration: found no file 'data/mod.tsv', expected one, relative to the recipe, "
        "did you mean 'data/mood.tsv'?",
    ),
    (
        HEAD
        + "tasks:\n  mood:\n    expert: org/a\n    calibration:\n      - data/mood.tsv\n      - gone.txt",
        "8: tasks.mood.calibration[1]: found no file 'gone.txt', expected one, relative to the recipe",
    ),
    (
        TASK.replace("org/a\n", "org/c\n"),
        "5: tasks.mood.expert: found 'org/c', expected one of the experts in models, did you mean 'org/b'?",
    ),
    (
        TASK.replace("org/a\n", "org/base\n"),
        "5: tasks.mood.expert: found 'org/base', expected one of the experts in models, did you mean "
        "'org/b'?",
    ),
    (
        TASK.replace("data/mood.tsv", "[]"),
        "6: tasks.mood.calibration: found an empty list, expected at least 1",
    ),
    (
        TASK.replace("data/mood.tsv", "[3]"),
        "6: tasks.mood.calibration[0]: found 3, expected the path of a file or a directory, or a mapping "
        "with path or dataset",
    ),
    (
        TASK.replace("data/mood.tsv", "3"),
        "6: tasks.mood.calibration: found 3, expected the path of a file or a directory, a mapping with "
        "path or dataset, or a list of these",
    ),
    (
        TASK.replace("data/mood.tsv", "{a: b}"),
        "6: tasks.mood.calibration.a: found an unknown key, expected one of path, dataset, config, split, "
        "images, texts, labels",
    ),
    (
        TASK.replace("data/mood.tsv", "\n      pth: data\n      split: train"),
        "7: tasks.mood.calibration.pth: found an unknown key, expected one of path, dataset, config, split, "
        "images, texts, labels, did you mean 'path'?",
    ),
    (
        TASK.replace("data/mood.tsv", "\n      - data/mood.tsv\n      - pth: data"),
        "8: tasks.mood.calibration[1].pth: found an unknown key, expected one of path, dataset, config, "
        "split, images, texts, labels, did you mean 'path'?",
    ),
    (
        TASK.replace("data/mood.tsv", "{}"),
        "6: tasks.mood.calibration: found neither path nor dataset, expected one of them",
    ),
    (
        TASK.replace("data/mood.tsv", "{path: , split: train}"),
        "6: tasks.mood.calibration: found neither path nor dataset, expected one of them",
    ),
    (
        TASK.replace("data/mood.tsv", "[data, {split: train}]"),
        "6: tasks.mood.calibration[1]: found neither path nor dataset, expected one of them",
    ),
    (
        TASK.replace("data/mood.tsv", "\n      path: data\n      dataset: org/d"),
        "8: tasks.mood.calibration.dataset: found it beside path, expected one of them",
    ),
    (
        TASK.replace("data/mood.tsv", "\n      path: gone"),
        "7: tasks.mood.calibration.path: found no file 'gone', expected one, relative to the recipe",
    ),
    (TASK.replace("data/mood.tsv", "{path: 3}"), "6: tasks.mood.calibration.path: found 3, expected a path"),
    (
        TASK.replace("data/mood.tsv", "{path: [data]}"),
        "6: tasks.mood.calibration.path: found a list, expected a path",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: 3}"),
        "6: tasks.mood.calibration.dataset: found 3, expected text",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: ./data}"),
        "6: tasks.mood.calibration.dataset: found './data', expected an id of the Hugging Face hub, "
        "org/name, perhaps with @revision",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, split: ' '}"),
        "6: tasks.mood.calibration.split: found empty text, expected a name",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, images: [a]}"),
        "6: tasks.mood.calibration.images: found a list, expected text",
    ),
    (
        TASK.replace("data/mood.tsv", "{path: data, config: a}"),
        "6: tasks.mood.calibration.config: found it beside path, expected it left out: only data sets of "
        "the hub have configs",
    ),
    (
        TASK.replace("data/mood.tsv", "{path: data/mood.tsv, split: a}"),
        "6: tasks.mood.calibration.split: found it beside path, expected it left out: a file has no splits",
    ),
    (
        TASK + "    evaluation: {dataset: org/d, labls: a}",
        "7: tasks.mood.evaluation.labls: found an unknown key, expected one of path, dataset, config, "
        "split, images, texts, labels, did you mean 'labels'?",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: []}"),
        "6: tasks.mood.calibration.texts: found an empty list, expected the name of a column or a list of "
        "names",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: 3}"),
        "6: tasks.mood.calibration.texts: found 3, expected the name of a column or a list of names",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: ' '}"),
        "6: tasks.mood.calibration.texts: found empty text, expected a name",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: [a, 3]}"),
        "6: tasks.mood.calibration.texts[1]: found 3, expected text",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: [a, b, a]}"),
        "6: tasks.mood.calibration.texts: found 'a' twice, expected it once",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, images: a, texts: b}"),
        "6: tasks.mood.calibration.texts: found it beside images, expected one of them",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: [a, b]}"),
        "4: tasks.mood.prompt: found the prompt '{}', expected text with {a} and {b}, where the texts of "
        "the data stand, and no {}",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: [a, b]}") + "    prompt: '{a} {c}'",
        "7: tasks.mood.prompt: found the prompt '{a} {c}', expected text with {a} and {b}, where the texts "
        "of the data stand, and no {}",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: [a, b]}") + "    prompt: '{a} {b} {}'",
        "7: tasks.mood.prompt: found the prompt '{a} {b} {}', expected text with {a} and {b}, where the "
        "texts of the data stand, and no {}",
    ),
    (
        TASK.replace("data/mood.tsv", "{dataset: org/d, texts: a}") + "    prompt: '{a}'",
        "7: tasks.mood.prompt: found the prompt '{a}', expected text with {} once, where a text of the data "
        "stands",
    ),
    (
        TASK + "    prompt: '{} {}'",
        "7: tasks.mood.prompt: found the prompt '{} {}', expected text with {} once, where a text of the "
        "data stands",
    ),
    (
        PAIRS + "    evaluation: {dataset: org/d, texts: [a, c]}",
        "8: tasks.mood.evaluation.texts: found a, c, expected a, b as in the task's other data: all stand "
        "in one prompt",
    ),
    (
        PAIRS + "    evaluation: data/mood.tsv",
        "8: tasks.mood.evaluation.texts: found nothing, expected a, b as in the task's other data: all "
        "stand in one prompt",
    ),
    (
        PAIRS.replace("{dataset", "[{dataset: org/d, texts: x}, {dataset").replace("]}", "]}]"),
        "6: tasks.mood.calibration[0].texts: found x, expected a, b as in the task's other data: all stand "
        "in one prompt",
    ),
    (
        TASK + "    evaluation: {split: a}",
        "7: tasks.mood.evaluation: found neither path nor dataset, expected one of them",
    ),
    (
        TASK + "    evaluation: [data]",
        "7: tasks.mood.evaluation: found a list, expected the path of a file or a directory, or a mapping "
        "with path or dataset",
    ),
    (
        TASK + "    templates: a photo of a {}.",
        "7: tasks.mood.templates: found 'a photo of a {}.', expected a list",
    ),
    (
        TASK + "    templates: ['a photo of a {}.']",
        "4: tasks.mood.evaluation: found nothing, expected labelled data, since the task has templates",
    ),
    (
        TASK + "    head: data/weights.bin",
        "4: tasks.mood.evaluation: found nothing, expected labelled data, since the task has a head",
    ),
    (
        LABELLED + "    templates: [a photo]",
        "8: tasks.mood.templates[0]: found the template 'a photo', expected text with {} once, where the "
        "class stands",
    ),
    (
        LABELLED + "    templates: ['{}', '{} and {}']",
        "8: tasks.mood.templates[1]: found the template '{} and {}', expected text with {} once, where the "
        "class stands",
    ),
    (
        LABELLED + "    templates: ['{0}']",
        "8: tasks.mood.templates[0]: found the template '{0}', expected text with {} once, where the class "
        "stands",
    ),
    (LABELLED + "    templates: [3]", "8: tasks.mood.templates[0]: found 3, expected text"),
    (LABELLED + "    head: data", "8: tasks.mood.head: found the directory 'data', expected a file"),
    (
        LABELLED + "    head: data/weight.bin",
        "8: tasks.mood.head: found no file 'data/weight.bin', expected one, relative to the recipe, did you "
        "mean 'data/weights.bin'?",
    ),
    (LABELLED + "    head: [data]", "8: tasks.mood.head: found a list, expected a path"),
    (
        LABELLED + "    head: data/weights.bin\n    templates: ['{}']",
        "8: tasks.mood.head: found it beside templates, expected one of them: templates make a head of "
        "their own",
    ),
    (HEAD + "frozen: text_model.*", "3: frozen: found 'text_model.*', expected a list"),
    (HEAD + "frozen: ['*', 3]", "3: frozen[1]: found 3, expected text"),
    (HEAD + "frozen: ['']", "3: frozen[0]: found empty text, expected a name"),
    (
        TASK.replace("data/mood.tsv", "x" * 5000),
        f"6: tasks.mood.calibration: found no file '{'x' * 5000}', expected one, relative to the recipe",
    ),
    (
        TASK.replace("mood:", "average:"),
        "4: tasks.average: found a task of this name, expected another: average is the mean of all tasks",
    ),
    (HEAD + "tasks:\n  mood:", "4: tasks.mood: found nothing, expected a mapping"),
    (HEAD + "tasks:\n  mood: {expert: org/a}", "4: tasks.mood.calibration: found nothing, expected this key"),
    (
        TASK + "    labels: [bad, good]",
        "4: tasks.mood.evaluation: found nothing, expected labelled data, since the task has labels",
    ),
    (LABELLED + "    labels: [bad]", "8: tasks.mood.labels: found 1 labels, expected at least 2"),
    (LABELLED + "    labels: [bad, bad]", "8: tasks.mood.labels: found 'bad' twice, expected it once"),
    (
        LABELLED + "    labels: [so so, so_so]",
        "8: tasks.mood.labels: found the text 'so so' for the labels 'so so' and 'so_so', expected one for "
        "each",
    ),
    (LABELLED + "    labels: [0, 1]", "8: tasks.mood.labels: found the label 0, expected text: quote it"),
    (
        LABELLED + "    labels: {bad: [], good: x}",
        "8: tasks.mood.labels: found an empty list for label 'bad', expected text",
    ),
    (
        LABELLED + "    labels: 3",
        "8: tasks.mood.labels: found 3, expected a list of names, a mapping of names to texts, or the path "
        "of a JSON file",
    ),
    (
        LABELLED + "    labels: data/mods.tsv",
        "8: tasks.mood.labels: found no file 'data/mods.tsv', expected one, relative to the recipe, did you "
        "mean 'data/mood.tsv'?",
    ),
    (
        LABELLED + "    labels: data/numbers.json",
        "8: tasks.mood.labels: found the label 1 in numbers.json, expected text: quote it",
    ),
    (
        LABELLED + "    labels: data/half.json",
        "8: tasks.mood.labels: found '\\ud800' for label 'a' in half.json, expected text",
    ),
    (
        LABELLED + "    labels: data/scalar.json",
        "8: tasks.mood.labels: found 3 in scalar.json, expected a list of names, a mapping of names to "
        "texts, or the path of a JSON file",
    ),
]


@pytest.mark.parametrize(("content", "sentence"), WRONG_VALUES, ids=range(len(WRONG_VALUES)))
def test_values_that_are_wrong(folder: Path, content: str, sentence: str) -> None:
    assert refusal(folder, content + "\n") == f"recipe.yaml:{sentence}"


@pytest.mark.parametrize("name", ["broken.json", "weights.bin", "deep.json"])
def test_label_files_that_are_no_json(folder: Path, name: str) -> None:
    start = f"recipe.yaml:8: tasks.mood.labels: found the file {name}, which is not readable as JSON ("
    assert refusal(folder, LABELLED + f"    labels: data/{name}\n").startswith(start)


def test_a_recipe_that_is_not_there(folder: Path) -> None:
    (folder / "recipe.yaml").touch()
    with pytest.raises(
        RecipeError,
        match=r"recipes\.yaml: found no such file, expected a recipe, did you mean '.*/recipe\.yaml'\?$",
    ):
        load_recipe(folder / "recipes.yaml")
    with pytest.raises(RecipeError, match=r"nowhere/recipe\.yaml: found no such file, expected a recipe$"):
        load_recipe(folder / "nowhere" / "recipe.yaml")
    with pytest.raises(RecipeError, match=r"data: not readable \(Is a directory\)$"):
        load_recipe(folder / "data")


def _loads_or_refuses(folder: Path, content: bytes) -> Recipe | None:
    path = folder / "fuzzed.yaml"
    path.write_bytes(content)
    try:
        return load_recipe(path)
    except RecipeError as error:
        assert str(error).startswith(f"{path}:")
        assert "\n" not in str(error)
        return None


RELAXED = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["data/mood.tsv", "org/a", ".", "+", "~", "/"])
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
WHOLE = {
    "base_model": "org/base",
    "merge_method": "ties",
    "models": [{"model": "org/a", "parameters": {"weight": 1.0}}],
    "parameters": {},
    "dtype": "float32",
    "tokenizer": {
        "source": "base",
        "tokens": {"x": {"source": {"kind": "model_token", "model": "org/a", "token_id": 1}, "force": True}},
        "pad_to_multiple_of": 8,
    },
    "chat_template": "auto",
    "tasks": {
        "mood": {
            "expert": "org/a",
            "calibration": "data/mood.tsv",
            "evaluation": "data/mood.tsv",
            "labels": ["a", "b"],
        },
        "pets": {
            "expert": "org/a",
            "calibration": [
                {"path": "data", "split": "train", "images": "x", "labels": "y"},
                {"dataset": "org/d", "texts": ["a"]},
            ],
            "evaluation": {"dataset": "org/d@main", "config": "small", "split": "test"},
            "labels": {"a": "a", "b": "b"},
            "templates": ["a photo of a {}."],
        },
    },
    "frozen": ["a.*"],
    "calibration": {"method": "epmq", "samples": 1, "alpha": 0.1, "rho": 1.0, "lambda": 0.1, "seed": 1},
    "quantization": {
        "grid": "Q4_0",
        "embeddings": "F16",
        "keep": ["*"],
        "overrides": {"*": "Q4_K"},
        "onnx_grid": "Q4_0",
    },
    "export": {"formats": ["gguf"]},
    "verify": {"graph": 0.1, "tasks": 0.1, "agreement": 0.1},
}


def _replaced(value: object, draw: Callable[[st.SearchStrategy[object]], object]) -> object:
    """The same with one value somewhere inside replaced by anything, or one key by any name."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        name = draw(st.text(max_size=5)) if not draw(st.integers(0, 9)) else key
        return {
            name if each == key else each: _replaced(inner, draw) if each == key else inner
            for each, inner in value.items()
        }
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        return [_replaced(value[0], draw), *value[1:]]
    return draw(ANYTHING)


@RELAXED
@given(st.data())
def test_any_value_in_any_place_loads_or_is_refused(folder: Path, data: st.DataObject) -> None:
    assert _loads_or_refuses(folder, yaml.safe_dump(WHOLE).encode()) is not None
    _loads_or_refuses(folder, yaml.safe_dump(_replaced(WHOLE, data.draw)).encode())


@RELAXED
@given(st.binary(max_size=60) | st.text("abm: -[]{}#&*!|>'\"%@`\t\n,?<", max_size=60).map(str.encode))
def test_any_bytes_load_or_are_refused(folder: Path, content: bytes) -> None:
    _loads_or_refuses(folder, content)
