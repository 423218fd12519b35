"""Recipes that are wrong: each is one sentence with its line, and no mistake, however odd, is a traceback."""

from pathlib import Path

import pytest

from epmq_export.errors import RecipeError
from epmq_export.recipe.load import load_recipe
from tests.hostile.recipes import HEAD, refusal

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
        "3: calibration.methd: found an unknown key, expected one of effort, method, samples, alpha, "
        "rho, lambda, seed, tune, refine, did you mean 'method'?",
    ),
    (
        HEAD + "calibration:\n  damping: 1",
        "4: calibration.damping: found an unknown key, expected one of effort, method, samples, alpha, "
        "rho, lambda, seed, tune, refine",
    ),
    (
        HEAD + "verfy: {}",
        "3: verfy: found an unknown key, expected one of name, base_model, merge_method, "
        "merge_convention, models, slices, modules, parameters, dtype, out_dtype, tokenizer_source, "
        "tokenizer, chat_template, tasks, frozen, calibration, "
        "quantization, export, verify, did you mean 'verify'?",
    ),
    (
        "base_modle: org/base\nmodels: [{model: org/a}]",
        "1: base_modle: found an unknown key, expected one of name, base_model, merge_method, "
        "merge_convention, models, slices, modules, parameters, dtype, out_dtype, tokenizer_source, "
        "tokenizer, chat_template, tasks, frozen, calibration, quantization, export, verify, did you mean "
        "'base_model'?",
    ),
    (
        "base_model: org/b\nmodels:\n  - model: org/a\n  - modle: org/b",
        "4: models[1].modle: found an unknown key, expected one of model, parameters, did you mean 'model'? "
        "(and 1 more mistake)",
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
        "3: quantization.grid: found 'q4_0', expected one of Q2_0, Q2_K, Q3_K, Q4_0, Q4_1, Q4_1Z, IQ4_NL, "
        "Q4_K, Q5_0, Q5_K, Q6_K, Q8_0, did you mean 'Q4_0'?",
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
        "3: quantization.onnx_grid: found 'Q4_K', expected one of Q2_0, Q4_0, Q4_1Z, Q8_0, did you mean "
        "'Q4_0'?",
    ),
    (
        HEAD + "quantization: {overrides: {'*.query.*': q8_0}}",
        "3: quantization.overrides.*.query.*: found 'q8_0', expected one of F16, F32, Q2_0, Q2_K, Q3_K, "
        "Q4_0, Q4_1, Q4_1Z, IQ4_NL, Q4_K, Q5_0, Q5_K, Q6_K, Q8_0, did you mean 'Q8_0'?",
    ),
    (
        HEAD + "quantization: {overrides: [Q8_0]}",
        "3: quantization.overrides: found a list, expected a mapping",
    ),
    (
        HEAD + "quantization: {embeddings: int4}",
        "3: quantization.embeddings: found 'int4', expected one of F16, F32, Q2_0, Q2_K, Q3_K, Q4_0, Q4_1, "
        "Q4_1Z, IQ4_NL, Q4_K, Q5_0, Q5_K, Q6_K, Q8_0",
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
    (HEAD + "frozen: text_model.*", "3: frozen: found 'text_model.*', expected a list"),
    (HEAD + "frozen: ['*', 3]", "3: frozen[1]: found 3, expected text"),
    (HEAD + "frozen: ['']", "3: frozen[0]: found empty text, expected a name"),
]


@pytest.mark.parametrize(("content", "sentence"), WRONG_VALUES, ids=range(len(WRONG_VALUES)))
def test_values_that_are_wrong(folder: Path, content: str, sentence: str) -> None:
    assert refusal(folder, content + "\n") == f"recipe.yaml:{sentence}"


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
