"""The recipes that both merge: rules, and ways to write them, by what each shows."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

Recipe = dict[str, Any]
WEIGHTS: tuple[Recipe, ...] = ({"weight": 0.6}, {"weight": 0.3}, {"weight": 0.4})
SPARSE: tuple[Recipe, ...] = (
    {"weight": 0.6, "density": 0.5},
    {"weight": 0.3, "density": 0.3},
    {"weight": 0.4, "density": 0.8},
)
FILTERED: list[Recipe] = [
    {"filter": "self_attn", "value": [0, 0.5, 0.3, 0.7, 1]},
    {"filter": "mlp", "value": [1, 0.5, 0.7, 0.3, 0]},
    {"value": 0.5},
]
FLOAT32 = {"dtype": "float32", "out_dtype": "bfloat16"}


@dataclass(frozen=True)
class Case:
    rule: str
    feature: str
    recipe: Recipe
    """What mergekit and `epmq merge` read; `merge_convention` is mergekit's for us, and mergekit does not
    know the key.
    """

    known: str = ""
    """Why the two must differ, where they must."""


@dataclass(frozen=True)
class Writer:
    """Writes recipes of the models in a folder."""

    place: Path

    def path(self, name: str) -> str:
        return str(self.place / name)

    def models(self, family: str, *own: Recipe) -> list[Recipe]:
        """Return the first experts of a family, each with parameters of its own."""
        return [
            {"model": self.path(f"{family}/{expert}"), "parameters": parameters}
            for expert, parameters in zip("abc", own, strict=False)
        ]

    def case(
        self,
        rule: str,
        feature: str,
        family: str,
        *own: Recipe,
        **keys: Any,  # noqa: ANN401
    ) -> Case:
        """Return a recipe that lists models."""
        models = {"models": self.models(family, *own)}
        if rule == "linear":
            return self.whole(rule, feature, **models, **keys)
        return self.whole(rule, feature, base_model=self.path(f"{family}/base"), **models, **keys)

    def whole(self, rule: str, feature: str, **keys: Any) -> Case:  # noqa: ANN401
        """Return a recipe of these keys."""
        return Case(rule, feature, {"merge_method": rule, "merge_convention": "mergekit", **keys})

    def source(self, name: str, first: int, last: int, **parameters: Any) -> Recipe:  # noqa: ANN401
        """Return some layers of a model."""
        return {"model": self.path(name), "layer_range": [first, last], "parameters": parameters}


def cases(place: Path) -> list[Case]:
    """Return all recipes, of the models that models.py writes into a folder."""
    write = Writer(place)
    return [
        *_sums(write),
        *_sparse(write),
        *_random(write),
        *_spherical(write),
        *_sliced(write),
        *_modules(write),
        *_tokenizers(write),
    ]


def _sums(write: Writer) -> list[Case]:
    case = write.case
    return [
        case("linear", "weights", "llama", *WEIGHTS),
        case("linear", "`normalize: false`", "bert", *WEIGHTS, parameters={"normalize": False}),
        case(
            "linear",
            "filters and gradients",
            "llama",
            {"weight": FILTERED},
            {"weight": [1, 0]},
            {"weight": 0.2},
        ),
        case("linear", "gradients, a BERT", "bert", {"weight": [0.1, 0.9, 0.4]}, {"weight": 0.5}),
        case("linear", "bfloat16 in and out", "llama-bf16", *WEIGHTS),
        case("linear", "`dtype: bfloat16`", "llama", *WEIGHTS, dtype="bfloat16"),
        case("linear", "`out_dtype: float16`", "llama", *WEIGHTS, out_dtype="float16"),
        case("task_arithmetic", "weights, `lambda`", "llama", *WEIGHTS, parameters={"lambda": 0.7}),
        case(
            "task_arithmetic",
            "`normalize: true`, `int8_mask`",
            "bert",
            *WEIGHTS,
            parameters={"normalize": True, "int8_mask": True},
        ),
        case(
            "task_arithmetic",
            "filters and gradients",
            "llama",
            {"weight": FILTERED},
            {"weight": [1, 0]},
            {"weight": -0.2},
        ),
        case("task_arithmetic", "bfloat16 in, float32 sums", "llama-bf16", *WEIGHTS, **FLOAT32),
    ]


def _sparse(write: Writer) -> list[Case]:
    case = write.case
    return [
        case("ties", "weights and densities", "llama", *SPARSE),
        case(
            "ties",
            "`int8_mask`, `normalize: false`, `lambda`",
            "bert",
            *SPARSE,
            parameters={"int8_mask": True, "normalize": False, "lambda": 0.5},
        ),
        case(
            "ties",
            "density by filter and gradient",
            "llama",
            {"weight": 1, "density": FILTERED},
            {"weight": [0, 1], "density": 0.4},
        ),
        case("ties", "bfloat16 in, float32 sums", "llama-bf16", *SPARSE, **FLOAT32),
        case("breadcrumbs", "bfloat16 in, float32 sums", "llama-bf16", *SPARSE, **FLOAT32),
        replace(
            case("ties", "bfloat16 throughout", "llama-bf16", *SPARSE),
            known=(
                "mergekit rounds task vectors to bfloat16 before it trims them and elects signs; with "
                "`dtype: float32` it does not"
            ),
        ),
    ]


def _random(write: Writer) -> list[Case]:
    """Return recipes of random masks, which mergekit is given, and of what thins out in their way."""
    case = write.case
    eased = [{**own, "epsilon": 0.1} for own in SPARSE]
    outliers = [{**own, "gamma": 0.02} for own in SPARSE]
    return [
        case("dare_linear", "same masks", "llama", *SPARSE),
        case("dare_linear", "same masks, `rescale: false`", "llama", *SPARSE, parameters={"rescale": False}),
        case("dare_ties", "same masks", "llama", *SPARSE),
        case(
            "dare_ties",
            "same masks, `normalize: true`, a BERT",
            "bert",
            *SPARSE,
            parameters={"normalize": True},
        ),
        case("della", "same masks", "llama", *eased),
        case("della_linear", "same masks", "llama", *eased),
        case("breadcrumbs", "`gamma`", "llama", *outliers),
        case("breadcrumbs_ties", "`gamma`", "bert", *outliers),
    ]


def _spherical(write: Writer) -> list[Case]:
    """Return recipes of what goes from one model to others."""
    case = write.case
    three: tuple[Recipe, ...] = ({}, {}, {})
    return [
        case("slerp", "`t`", "llama", {}, parameters={"t": 0.3}),
        case("slerp", "`t` by filter and gradient", "llama", {}, parameters={"t": FILTERED}),
        case("nearswap", "`t` by gradient", "llama", {}, parameters={"t": [0.01, 0.2]}),
        case("model_stock", "", "llama", *three),
        case("model_stock", "`filter_wise`", "llama", *three, parameters={"filter_wise": True}),
        case("karcher", "a base that is not listed", "llama", *three),
    ]


def _sliced(write: Writer) -> list[Case]:
    source, base = write.source, {"base_model": write.path("llama/base")}

    def sliced(rule: str, feature: str, *slices: Recipe, **keys: Any) -> Case:  # noqa: ANN401
        return write.whole(rule, feature, slices=list(slices), **keys)

    halves = [
        {"filter": "o_proj", "value": 0.0},
        {"filter": "down_proj", "value": 0.0},
        {"value": 1.0},
    ]
    return [
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
            {"sources": [source("llama/base", 2, 4, scale=halves)]},
        ),
        sliced(
            "slerp",
            "slices, `t` by filter and gradient",
            {"sources": [source("llama/base", 0, 4), source("llama/a", 0, 4)]},
            **base,
            parameters={"t": FILTERED},
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
                    source("llama/a", 0, 2, **SPARSE[0]),
                    source("llama/b", 0, 2, **SPARSE[1]),
                ]
            },
            {
                "sources": [source("llama/c", 2, 4), source("llama/a", 2, 4, **SPARSE[2])],
                "base_model": write.path("llama/c"),
            },
            **base,
        ),
    ]


def _modules(write: Writer) -> list[Case]:
    """Return recipes by module, and one of an adapter."""
    two = {"sources": [write.source("llama/a", 0, 2, weight=1.0), write.source("llama/b", 2, 4)]}
    adapted = write.path("llama/base") + "+" + write.path("llama/lora")
    return [
        write.whole(
            "linear",
            "`modules`, slices in one",
            modules={"default": {"slices": [two], "parameters": {"weight": 0.3}}},
        ),
        write.whole(
            "task_arithmetic",
            "`modules` of a T5",
            base_model=write.path("t5/base"),
            modules={
                "encoder": {"models": write.models("t5", {"weight": [0, 1]}, {"weight": 0.5})},
                "decoder": {
                    "models": write.models("t5", {"weight": 0.3}, {}),
                    "parameters": {"weight": [1, 0.2]},
                },
                "shared": {"models": write.models("t5", {}, {}, {})},
            },
            parameters={"weight": 0.7},
        ),
        write.whole(
            "ties",
            "`base+lora`",
            base_model=write.path("llama/base"),
            models=[{"model": adapted, "parameters": SPARSE[0]}, *write.models("llama", SPARSE[1])],
        ),
    ]


def _tokenizers(write: Writer) -> list[Case]:
    """Return recipes of models whose vocabularies differ."""
    more = write.path("llama/more")
    word5 = {"kind": "model_token", "model": write.path("llama/base"), "token": "word5"}
    block = {
        "source": "union",
        "pad_to_multiple_of": 8,
        "tokens": {
            "word3": {"source": more, "force": True},
            "new2": {"source": word5},
            "newest": {"source": {"kind": "zero"}},
        },
    }
    asked: dict[str, Recipe] = {
        "`tokenizer_source: base`": {"tokenizer_source": "base"},
        "`tokenizer_source`: a model": {"tokenizer_source": more},
        "`tokenizer_source: union`": {"tokenizer_source": "union"},
        "`tokenizer` with tokens and padding": {"tokenizer": block},
    }
    return [
        write.whole(
            "task_arithmetic",
            feature,
            base_model=write.path("llama/base"),
            models=[
                {"model": more, "parameters": {"weight": 0.5}},
                *write.models("llama", {"weight": 0.3}),
            ],
            **keys,
        )
        for feature, keys in asked.items()
    ]
