"""The recipes of benchmarks.parity: rules, and ways to write them, by what each shows."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Recipe = dict[str, Any]


@dataclass(frozen=True)
class Case:
    rule: str
    feature: str
    recipe: Recipe
    """As mergekit and `epmq merge` read it; `merge_convention` is mergekit's for us, and mergekit does not
    know the key.
    """

    known: str = ""
    """Why the two must differ, where they must."""


def cases(place: Path) -> list[Case]:
    def path(name: str) -> str:
        return str(place / name)

    def models(family: str, *own: Recipe) -> list[Recipe]:
        return [
            {"model": path(f"{family}/{expert}"), "parameters": parameters}
            for expert, parameters in zip("abc", own, strict=False)
        ]

    def case(rule: str, feature: str, family: str, own: list[Recipe], **keys: Any) -> Case:  # noqa: ANN401
        base = {} if rule == "linear" else {"base_model": path(f"{family}/base")}
        return Case(
            rule,
            feature,
            {
                **base,
                "merge_method": rule,
                "merge_convention": "mergekit",
                "models": models(family, *own),
                **keys,
            },
        )

    def source(name: str, first: int, last: int, **parameters: Any) -> Recipe:  # noqa: ANN401
        return {"model": path(name), "layer_range": [first, last], "parameters": parameters}

    def sliced(rule: str, feature: str, *slices: Recipe, **keys: Any) -> Case:  # noqa: ANN401
        return Case(
            rule,
            feature,
            {"merge_method": rule, "merge_convention": "mergekit", "slices": list(slices), **keys},
        )

    base = {"base_model": path("llama/base")}
    weights: list[Recipe] = [{"weight": 0.6}, {"weight": 0.3}, {"weight": 0.4}]
    filtered = [
        {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
        {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
        {"value": 0.5},
    ]
    dense: list[Recipe] = [
        {"weight": 0.6, "density": 0.5},
        {"weight": 0.3, "density": 0.3},
        {"weight": 0.4, "density": 0.8},
    ]
    float32 = {"dtype": "float32", "out_dtype": "bfloat16"}
    two = {"sources": [source("llama/a", 0, 2, weight=1.0), source("llama/b", 2, 4)]}
    found = [
        case("linear", "weights", "llama", weights),
        case("linear", "`normalize: false`", "bert", weights, parameters={"normalize": False}),
        case(
            "linear",
            "filters and gradients",
            "llama",
            [{"weight": filtered}, {"weight": [1, 0]}, {"weight": 0.2}],
        ),
        case("linear", "gradients, a BERT", "bert", [{"weight": [0.1, 0.9, 0.4]}, {"weight": 0.5}]),
        case("linear", "bfloat16 in and out", "llama-bf16", weights),
        case("linear", "`dtype: bfloat16`", "llama", weights, dtype="bfloat16"),
        case("linear", "`out_dtype: float16`", "llama", weights, out_dtype="float16"),
        case("task_arithmetic", "weights, `lambda`", "llama", weights, parameters={"lambda": 0.7}),
        case(
            "task_arithmetic",
            "`normalize: true`, `int8_mask`",
            "bert",
            weights,
            parameters={"normalize": True, "int8_mask": True},
        ),
        case(
            "task_arithmetic",
            "filters and gradients",
            "llama",
            [{"weight": filtered}, {"weight": [1, 0]}, {"weight": -0.2}],
        ),
        case("task_arithmetic", "bfloat16 in, float32 sums", "llama-bf16", weights, **float32),
        case("ties", "weights and densities", "llama", dense),
        case(
            "ties",
            "`int8_mask`, `normalize: false`, `lambda`",
            "bert",
            dense,
            parameters={"int8_mask": True, "normalize": False, "lambda": 0.5},
        ),
        case(
            "ties",
            "density by filter and gradient",
            "llama",
            [{"weight": 1, "density": filtered}, {"weight": [0, 1], "density": 0.4}],
        ),
        case("ties", "bfloat16 in, float32 sums", "llama-bf16", dense, **float32),
        case("breadcrumbs", "bfloat16 in, float32 sums", "llama-bf16", dense, **float32),
        replace(
            case("ties", "bfloat16 throughout", "llama-bf16", dense),
            known=(
                "mergekit rounds task vectors to bfloat16 before it trims them and elects signs; with "
                "`dtype: float32` it does not"
            ),
        ),
        case("dare_linear", "same masks", "llama", dense),
        case("dare_linear", "same masks, `rescale: false`", "llama", dense, parameters={"rescale": False}),
        case("dare_ties", "same masks", "llama", dense),
        case(
            "dare_ties",
            "same masks, `normalize: true`, a BERT",
            "bert",
            dense,
            parameters={"normalize": True},
        ),
        case("della", "same masks", "llama", [{**own, "epsilon": 0.1} for own in dense]),
        case("della_linear", "same masks", "llama", [{**own, "epsilon": 0.1} for own in dense]),
        case("breadcrumbs", "`gamma`", "llama", [{**own, "gamma": 0.02} for own in dense]),
        case("breadcrumbs_ties", "`gamma`", "bert", [{**own, "gamma": 0.02} for own in dense]),
        case("slerp", "`t`", "llama", [{}], parameters={"t": 0.3}),
        case("slerp", "`t` by filter and gradient", "llama", [{}], parameters={"t": filtered}),
        case("model_stock", "", "llama", [{}, {}, {}]),
        case("model_stock", "`filter_wise`", "llama", [{}, {}, {}], parameters={"filter_wise": True}),
        case("karcher", "a base that is not listed", "llama", [{}, {}, {}]),
        sliced(
            "passthrough",
            "layers stacked",
            {"sources": [source("llama/a", 0, 3)]},
            {"sources": [source("llama/b", 1, 4)]},
        ),
        sliced(
            "passthrough",
            "layers repeated, `scale` by filter",
            {"sources": [source("llama/base", 0, 4)]},
            {
                "sources": [
                    source(
                        "llama/base",
                        2,
                        4,
                        scale=[
                            {"filter": "o_proj", "value": 0.0},
                            {"filter": "down_proj", "value": 0.0},
                            {"value": 1.0},
                        ],
                    )
                ]
            },
        ),
        sliced(
            "slerp",
            "slices, `t` by filter and gradient",
            {"sources": [source("llama/base", 0, 4), source("llama/a", 0, 4)]},
            **base,
            parameters={"t": filtered},
        ),
        sliced(
            "linear",
            "slices of other layers, a deeper model",
            {"sources": [source("llama/a", 0, 3, weight=0.4), source("llama/deep", 3, 6, weight=0.6)]},
            {
                "sources": [
                    source("llama/b", 1, 4, weight=[0, 1]),
                    source("llama/deep", 0, 3, weight=[1, 0.5]),
                ],
                "parameters": {"normalize": False},
            },
        ),
        sliced(
            "task_arithmetic",
            "parameters of source, slice and recipe",
            {
                "sources": [
                    source("llama/base", 0, 2),
                    source("llama/a", 0, 2, weight=[{"filter": "mlp", "value": [0.2, 0.8]}]),
                ],
                "parameters": {"weight": 0.3},
            },
            {
                "sources": [source("llama/base", 1, 4), source("llama/b", 1, 4)],
                "parameters": {"lambda": [0.5, 1]},
            },
            **base,
            parameters={"weight": [0.9, 0.1], "lambda": 0.8},
        ),
        sliced(
            "ties",
            "slices, one with a base of its own",
            {
                "sources": [
                    source("llama/base", 0, 2),
                    source("llama/a", 0, 2, **dense[0]),
                    source("llama/b", 0, 2, **dense[1]),
                ]
            },
            {
                "sources": [source("llama/c", 2, 4), source("llama/a", 2, 4, **dense[2])],
                "base_model": path("llama/c"),
            },
            **base,
        ),
        Case(
            "linear",
            "`modules`, slices in one",
            {
                "merge_method": "linear",
                "merge_convention": "mergekit",
                "modules": {"default": {"slices": [two], "parameters": {"weight": 0.3}}},
            },
        ),
        Case(
            "task_arithmetic",
            "`modules` of a T5",
            {
                "merge_method": "task_arithmetic",
                "merge_convention": "mergekit",
                "base_model": path("t5/base"),
                "modules": {
                    "encoder": {"models": models("t5", {"weight": [0, 1]}, {"weight": 0.5})},
                    "decoder": {
                        "models": models("t5", {"weight": 0.3}, {}),
                        "parameters": {"weight": [1, 0.2]},
                    },
                    "shared": {"models": models("t5", {}, {}, {})},
                },
                "parameters": {"weight": 0.7},
            },
        ),
        Case(
            "ties",
            "`base+lora`",
            {
                "merge_method": "ties",
                "merge_convention": "mergekit",
                **base,
                "models": [
                    {"model": path("llama/base") + "+" + path("llama/lora"), "parameters": dense[0]},
                    *models("llama", dense[1]),
                ],
            },
        ),
    ]
    more = [{"model": path("llama/more"), "parameters": {"weight": 0.5}}, *models("llama", {"weight": 0.3})]
    block = {
        "source": "union",
        "pad_to_multiple_of": 8,
        "tokens": {
            "word3": {"source": path("llama/more"), "force": True},
            "new2": {"source": {"kind": "model_token", "model": path("llama/base"), "token": "word5"}},
            "newest": {"source": {"kind": "zero"}},
        },
    }
    for feature, keys in (
        ("`tokenizer_source: base`", {"tokenizer_source": "base"}),
        ("`tokenizer_source`: a model", {"tokenizer_source": path("llama/more")}),
        ("`tokenizer_source: union`", {"tokenizer_source": "union"}),
        ("`tokenizer` with tokens and padding", {"tokenizer": block}),
    ):
        found.append(
            Case(
                "task_arithmetic",
                feature,
                {
                    "merge_method": "task_arithmetic",
                    "merge_convention": "mergekit",
                    **base,
                    "models": more,
                    **keys,
                },
            )
        )
    return found
