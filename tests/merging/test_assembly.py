"""Slices and modules, on sources in memory: each layer of the merge against the layers that it is made of."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from epmq_export.errors import InputError, RecipeError
from epmq_export.merging.assembly import assemble, origins, require_layers
from epmq_export.recipe.load import load_recipe
from epmq_export.recipe.plan import plan_of
from epmq_export.tensors.source import TypedSource
from tests.tiny.in_memory import InMemory


def model(start: float, layers: int = 4, towers: bool = False) -> InMemory:
    """Return a stack of layers, layer i all `start + i`, with embeddings `start + 0.25` and a norm behind
    them `start + 0.5`. With towers, it has an encoder and a decoder.
    """
    tensors: dict[str, Tensor] = {}
    for prefix in ("encoder.", "decoder.") if towers else ("model.",):
        tensors |= {
            f"{prefix}layers.{i}.{part}.weight": torch.full((2, 2), float(start + i))
            for i in range(layers)
            for part in ("attn", "mlp")
        }
        tensors[f"{prefix}norm.weight"] = torch.full((2,), start + 0.5)
    tensors["shared.weight" if towers else "model.embed_tokens.weight"] = torch.full((3, 2), start + 0.25)
    return InMemory(tensors)


def merge(folder: Path, text: str, models: Mapping[str, TypedSource]) -> dict[str, Tensor]:
    path = folder / "recipe.yaml"
    path.write_text(text)
    recipe = load_recipe(path)
    with recipe.located():
        source = assemble(plan_of(recipe), models)
        return {name: source.load(name) for name in source.names()}


def ones(tensors: Mapping[str, Tensor], *names: str) -> list[float]:
    """The one value of each tensor."""
    assert all(len(tensors[name].unique()) == 1 for name in names)
    return [float(tensors[name].flatten()[0]) for name in names]


def layers(tensors: Mapping[str, Tensor], part: str = "attn", prefix: str = "model.") -> list[float]:
    count = sum(name.startswith(f"{prefix}layers.") and part in name for name in tensors)
    return ones(tensors, *(f"{prefix}layers.{i}.{part}.weight" for i in range(count)))


BASE, A, B = "org/base", "org/a", "org/b"
STACKED = """merge_method: passthrough
slices:
  - sources: [{model: org/a, layer_range: [0, 3]}]
  - sources: [{model: org/b, layer_range: [1, 4]}]
"""


def test_stacked_layers_are_numbered_anew_and_the_ends_come_from_the_first_and_the_last_slice(
    tmp_path: Path,
) -> None:
    got = merge(tmp_path, STACKED, {A: model(100), B: model(200)})
    assert layers(got) == [100, 101, 102, 201, 202, 203]
    assert ones(got, "model.embed_tokens.weight", "model.norm.weight") == [100.25, 200.5]
    assert len(got) == 2 * 6 + 2


def test_a_scale_by_filter(tmp_path: Path) -> None:
    text = STACKED.replace("[1, 4]}", "[1, 4], parameters: {scale: [{filter: attn, value: 0}, {value: 2}]}}")
    got = merge(tmp_path, text, {A: model(100), B: model(200)})
    assert layers(got)[3:] == [0, 0, 0] and layers(got, "mlp")[3:] == [402, 404, 406]


def test_a_gradient_runs_over_its_slice_and_levels_go_before_each_other(tmp_path: Path) -> None:
    text = """base_model: org/base
merge_method: task_arithmetic
slices:
  - sources:
      - {model: org/base, layer_range: [0, 3]}
      - {model: org/a, layer_range: [0, 3], parameters: {weight: [{filter: attn, value: [0, 1]}]}}
    parameters: {weight: 3}
  - sources:
      - {model: org/base, layer_range: [0, 1]}
      - {model: org/a, layer_range: [0, 1]}
parameters: {weight: [5, 7], lambda: 1}
"""
    got = merge(tmp_path, text, {BASE: model(0), A: model(1)})  # every task vector is 1 everywhere
    assert layers(got) == [
        0,
        1.5,
        3,
        7,
    ]  # 0 + 0, 1 + 0.5, 2 + 1; then one layer, whose gradient is at its end
    assert layers(got, "mlp") == [3, 4, 5, 7]
    assert ones(got, "model.embed_tokens.weight", "model.norm.weight") == [3.25, 5.5]


def test_a_filter_sees_the_name_that_a_tensor_has_in_its_model(tmp_path: Path) -> None:
    text = """base_model: org/base
merge_method: task_arithmetic
slices:
  - sources:
      - {model: org/base, layer_range: [0, 2]}
      - model: org/a
        layer_range: [2, 4]
        parameters: {weight: [{filter: layers.3., value: 10}, {value: 1}]}
parameters: {lambda: [{filter: layers.1., value: 2}, {value: 1}]}
"""
    got = merge(tmp_path, text, {BASE: model(0), A: model(0)})
    assert layers(got) == [2, 1 + 2 * 10 * 2]  # layers 2 and 3 of a on layers 0 and 1: each task vector is 2


def test_models_of_other_depths_and_a_base_of_a_slice(tmp_path: Path) -> None:
    text = """base_model: org/base
merge_method: task_arithmetic
parameters: {weight: 0.5}
slices:
  - {sources: [{model: org/base, layer_range: [0, 2]}, {model: org/a, layer_range: [4, 6]}]}
  - {base_model: org/a, sources: [{model: org/b, layer_range: [0, 2]}, {model: org/a, layer_range: [0, 2]}]}
"""
    got = merge(tmp_path, text, {BASE: model(0), A: model(100, layers=6), B: model(200)})
    assert layers(got) == [0 + 0.5 * 104, 1 + 0.5 * 104, 150, 151]


def test_modules_have_gradients_and_slices_of_their_own(tmp_path: Path) -> None:
    text = """base_model: org/base
merge_method: task_arithmetic
modules:
  encoder: {models: [{model: org/a, parameters: {weight: [0, 1]}}]}
  decoder:
    slices:
      - sources: [{model: org/base, layer_range: [1, 3]}, {model: org/a, layer_range: [1, 3]}]
    parameters: {weight: 2}
  shared: {models: [{model: org/a}]}
parameters: {weight: 4}
"""
    models = {BASE: model(0, layers=3, towers=True), A: model(1, layers=3, towers=True)}
    got = merge(tmp_path, text, models)
    assert layers(got, prefix="encoder.") == [0, 1.5, 3] and layers(got, prefix="decoder.") == [3, 4]
    assert ones(got, "shared.weight", "encoder.norm.weight", "decoder.norm.weight") == [4.25, 0.5, 2.5]
    rest = merge(tmp_path, text.replace("shared:", "default:"), models)
    assert rest.keys() == got.keys() and all(torch.equal(rest[name], got[name]) for name in got)


def test_a_weight_anywhere_is_one_everywhere(tmp_path: Path) -> None:
    source = "{model: org/base, layer_range: [0, 2]}, {model: org/a, layer_range: [0, 2]"
    text = (
        "base_model: org/base\nmerge_method: task_arithmetic\nslices:\n"
        f"  - sources: [{source}, parameters: {{weight: 1}}}}]\n  - sources: [{source}}}]\n"
    )
    models = {BASE: model(0), A: model(1)}
    assert layers(merge(tmp_path, text, models)) == [
        1,
        2,
        1,
        2,
    ]  # lambda is 1, not the 0.3 of a recipe without weights
    assert layers(merge(tmp_path, text.replace("weight: 1", ""), models)) == pytest.approx(
        [0.3, 1.3, 0.3, 1.3]
    )


def test_under_mergekits_convention_an_unlisted_base_counts(tmp_path: Path) -> None:
    text = "base_model: org/base\nmerge_method: linear\nmodels: [{model: org/a}]\n"
    models = {BASE: model(0), A: model(2)}
    assert layers(merge(tmp_path, text, models)) == [2, 3, 4, 5]
    assert layers(merge(tmp_path, text + "merge_convention: mergekit\n", models)) == [1, 2, 3, 4]


def test_a_rule_of_one_model_never_gets_the_base_as_well(tmp_path: Path) -> None:
    text = (
        "base_model: org/base\nmerge_method: passthrough\nmerge_convention: mergekit\n"
        "models: [{model: org/a}]\n"
    )
    assert layers(merge(tmp_path, text, {BASE: model(0), A: model(2)})) == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            STACKED.replace("[1, 4]", "[1, 5]"),
            ":4: slices[1].sources[0].layer_range: found [1, 5], but org/b has 4 layers, expected at most "
            "[0, 4]",
        ),
        (
            STACKED.replace("org/b", "org/towers"),
            ":4: slices[1].sources[0].model: found 2 stacks of layers (decoder.layers, encoder.layers) in "
            "org/towers, expected one",
        ),
        (
            STACKED.replace("org/b", "org/flat"),
            ":4: slices[1].sources[0].model: found no layers in org/flat, expected one",
        ),
        (
            "base_model: org/a\nmerge_method: linear\nmodules:\n  head: {models: [{model: org/b}]}",
            ":4: modules.head: found no tensor that belongs to it",
        ),
        (
            "base_model: org/towers\nmerge_method: linear\nmodules:\n  encoder: {models: [{model: "
            "org/towers}]}",
            ":3: modules: found no module for decoder.layers.0.",
        ),
        (
            STACKED
            + "  - {sources: [{model: org/a, layer_range: [0, 1]}, {model: org/b, layer_range: [0, 1]}]}",
            ":5: slices[2].sources: found 2 experts, expected 1",
        ),
        (
            STACKED.replace("[1, 4]}", "[1, 4], parameters: {scael: 2}}"),
            ":4: slices[1].sources[0].parameters.scael: found a parameter that passthrough does not have",
        ),
        (
            STACKED + "parameters:\n  scale: yes",
            ":6: parameters.scale: scale of org/a is 'yes', expected a number",
        ),
        (
            STACKED + "    parameters: {scale: yes}",
            ":5: slices[1].parameters.scale: scale of org/b is 'yes', expected a number",
        ),
        (
            STACKED + "    parameters:\n      scael: 2",
            ":6: slices[1].parameters.scael: found a parameter that passthrough does not have",
        ),
        (
            STACKED + "    parameters: {scale: {filter: mlp, value: 2}}\nparameters: {scale: yes}",
            ":6: parameters.scale: scale of org/a is 'yes', expected a number",
        ),
        (
            STACKED.replace(
                "[0, 3]}]",
                "[0, 3], parameters: {scale: {filter: a, value: 1}}}]\n    parameters: {scale: no}",
            ),
            ":4: slices[0].parameters.scale: scale of org/a is 'no'",
        ),
        (
            "base_model: org/b\nmerge_method: ties\nmodules:\n  default:\n    models: [{model: org/a}]\n    "
            "parameters:\n      density: 3",
            ":7: modules.default.parameters.density: density of org/a is 3",
        ),
        (
            "base_model: org/b\nmerge_method: ties\nmodules:\n  default:\n    models: [{model: "
            "org/a}]\nparameters: {lambda: no}",
            ":6: parameters.lambda: lambda is 'no'",
        ),
        (
            "base_model: org/b\nmerge_method: passthru\nmodels: [{model: org/a}]",
            ":2: merge_method: found 'passthru', expected one of",
        ),
    ],
)
def test_mistakes(tmp_path: Path, text: str, sentence: str) -> None:
    models = {
        A: model(0),
        B: model(1),
        "org/towers": model(2, towers=True),
        "org/flat": InMemory({"model.norm.weight": torch.ones(2)}),
    }
    with pytest.raises(RecipeError) as caught:
        merge(tmp_path, text, models)
    assert str(caught.value).startswith(f"{tmp_path}/recipe.yaml{sentence}")


def test_layers_that_do_not_fit_are_named(tmp_path: Path) -> None:
    text = STACKED.replace("passthrough", "linear").replace(
        "{model: org/b, layer_range: [1, 4]}",
        "{model: org/b, layer_range: [1, 4]}, {model: org/a, layer_range: [0, 3]}",
    )
    wide = {
        name: torch.ones(4, 4) if "layers.2.attn" in name else value
        for name, value in model(0).tensors.items()
    }
    with pytest.raises(
        InputError,
        match=r"org/b does not fit the base: model\.layers\.5\.attn\.weight has shape \[2, 2\], the base's "
        r"has \[4, 4\]",
    ):
        merge(tmp_path, text, {A: InMemory(wide), B: model(0)})


@pytest.mark.parametrize(
    ("ranges", "kept"),
    [
        ([(0, 2), (2, 4)], True),
        ([(0, 4)], True),
        ([(0, 2)], False),
        ([(2, 4), (0, 2)], False),
        ([(0, 3), (2, 4)], False),
    ],
)
def test_only_the_bases_own_layers_can_be_calibrated(
    tmp_path: Path, ranges: list[tuple[int, int]], kept: bool
) -> None:
    slices = "".join(
        f"  - {{sources: [{{model: org/base, layer_range: {[*span]}}}, {{model: org/a, layer_range: "
        f"{[*span]}}}]}}\n"
        for span in ranges
    )
    (tmp_path / "recipe.yaml").write_text(f"base_model: org/base\nslices:\n{slices}")
    recipe = load_recipe(tmp_path / "recipe.yaml")
    plan = plan_of(recipe)
    assert origins(plan, model(0)) == {"model.layers": [layer for span in ranges for layer in range(*span)]}
    if kept:
        require_layers(plan, model(0))
        same = merge(
            tmp_path, "base_model: org/base\nmodels: [{model: org/a}]\n", {BASE: model(0), A: model(1)}
        )
        sliced = merge(tmp_path, f"base_model: org/base\nslices:\n{slices}", {BASE: model(0), A: model(1)})
        assert all(torch.equal(same[name], sliced[name]) for name in same) and same.keys() == sliced.keys()
    else:
        sentence = (
            r"recipe\.yaml:2: slices: found layers in another order or number than the base's.*`merge` works"
        )
        with pytest.raises(RecipeError, match=sentence), recipe.located():
            require_layers(plan, model(0))


def test_layers_of_one_model_on_other_layers_of_the_base_cannot_be_calibrated(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        "base_model: org/base\nslices:\n  - sources: [{model: org/base, layer_range: [0, 4]}, {model: "
        "org/a, layer_range: [1, 5]}]\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match="slices: found layers in another order"), recipe.located():
        require_layers(plan_of(recipe), model(0))


SLICES = (
    "slices:\n  - sources: [{model: org/base, layer_range: [0, 4]}, {model: org/a, layer_range: [0, 4]}]\n"
)
IN_MODULES = (
    "modules:\n  encodr:\n    "
    + SLICES.replace("\n  ", "\n      ")
    + "  default: {models: [{model: org/a}]}\n"
)


@pytest.mark.parametrize(
    ("text", "towers", "sentence"),
    [
        (
            SLICES,
            True,
            ":1: base_model: found 2 stacks of layers (decoder.layers, encoder.layers) in org/base, "
            "expected one",
        ),
        (
            SLICES.replace("4]", "10000000000]"),
            False,
            ":2: slices: found layers in another order or number than the base's",
        ),
        (IN_MODULES, True, ":3: modules.encodr: found no tensor that belongs to it"),
    ],
)
def test_a_base_without_the_layers_that_slices_name(
    tmp_path: Path, text: str, towers: bool, sentence: str
) -> None:
    (tmp_path / "recipe.yaml").write_text("base_model: org/base\n" + text)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError) as caught, recipe.located():
        require_layers(plan_of(recipe), model(0, towers=towers))
    assert str(caught.value).startswith(f"{tmp_path}/recipe.yaml{sentence}")
