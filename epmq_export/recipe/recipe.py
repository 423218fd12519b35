"""A recipe, validated: a superset of mergekit's YAML (docs/recipe.md has every key).

Relative paths are relative to the recipe. Every mistake is one sentence with the line, the key, what was
found and what was expected. Where there are several, the message tells the first in the file, and how many
more there are.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS, Method
from epmq_export.calibration.refinement import AFFINE, WHOLE, Refinement
from epmq_export.errors import Key, RecipeError, SettingError
from epmq_export.grids import GRIDS
from epmq_export.grids.layout import Layout
from epmq_export.merging.registry import RULES
from epmq_export.merging.settings import CONVENTIONS
from epmq_export.recipe.merge import RecipeModel, RecipeModule, RecipeSlice, RecipeTokenizer
from epmq_export.recipe.mistakes import refusal
from epmq_export.recipe.task import RecipeTask
from epmq_export.recipe.values import (
    ONNX_GRIDS,
    STORAGES,
    Context,
    Dtype,
    ModelName,
    Name,
    Parameters,
    RecipePart,
    Share,
    Size,
    choice,
    distinct,
    location,
    shown,
)
from epmq_export.recipe.yaml_lines import Document


def _rho(value: object) -> object:
    if value is None or value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise ValueError(f"found {shown(value)}, expected 'auto' or a number of at least 0")
    return float(value)


def _refine(value: object) -> object:
    if isinstance(value, str) and value in ("auto", "affine"):
        return value
    if isinstance(value, bool):
        return WHOLE.steps if value else 0
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"found {shown(value)}, expected auto, affine, true, false or a number of steps")
    return value


FORMATS = ("gguf", "onnx")
"""The formats that a recipe may ask for. Full precision is no file of a run."""
EFFORTS: dict[str, dict[str, int | bool]] = {
    "fast": {"samples": 16, "refine": False},
    "good": {},
    "best": {"samples": 512, "refine": 1200},
}
"""What an effort stands for. Keys that a recipe gives itself are its own."""


class RecipeCalibration(RecipePart):
    """The settings of the calibration."""

    effort: Annotated[str, choice(*EFFORTS)] = "good"
    """How much is done for accuracy: the numbers of samples and of steps of refine that are given nowhere
    else.
    """

    method: Annotated[str, choice(*PRESETS)] = DEFAULT_METHOD
    samples: int = Field(default=64, ge=1)
    """The number of texts or images of each task."""

    alpha: Share | None = None
    rho: Annotated[float | Literal["auto"] | None, BeforeValidator(_rho)] = None
    damping: float | None = Field(default=None, ge=0, alias="lambda")
    seed: int = Field(default=0, ge=0, lt=2**63)
    tune: bool = False
    """Whether alpha, rho and lambda are searched on held-out calibration texts, from the given values on."""

    refine: Annotated[
        int | Literal["auto", "affine"],
        BeforeValidator(_refine, json_schema_input_type=bool | int | Literal["auto", "affine"]),
    ] = "auto"
    """The number of steps of distillation after the last block, or `affine` for that of biases and norms
    alone. `auto` leaves it to the pipeline, which knows the model.
    """

    @model_validator(mode="before")
    @classmethod
    def _with_effort(cls, given: object) -> object:
        if not isinstance(given, dict) or not isinstance(effort := given.get("effort"), str):
            return given
        return {**EFFORTS.get(effort, {}), **given}

    @field_validator("tune")
    @classmethod
    def _tunable(cls, value: bool, info: ValidationInfo) -> bool:
        method = PRESETS.get(info.data.get("method", ""))
        if value and method is not None and method.target != "experts":
            raise ValueError(
                f"found true, which method {method.name!r} has nothing to tune for, expected the key left out"
            )
        return value

    @field_validator("alpha", "rho", "damping")
    @classmethod
    def _used(cls, value: float | str | None, info: ValidationInfo) -> float | str | None:
        method = PRESETS.get(info.data.get("method", ""))
        if (
            value is None
            or method is None
            or method.target == "experts"
            or (info.field_name == "damping" and method.rounding == "gptq")
        ):
            return value
        raise ValueError(
            f"found {value if isinstance(value, str) else format(value, 'g')}, which method "
            f"{method.name!r} does not use, expected the key left out"
        )

    @property
    def refinement(self) -> Refinement | None:
        """Return what is refined, None where nothing is. For `auto` this is what is asked of a model that can
        be refined so.
        """
        if self.refine == "auto":
            return AFFINE if self.method == DEFAULT_METHOD else None
        if self.refine == "affine":
            return AFFINE
        return replace(WHOLE, steps=self.refine) if self.refine else None

    @property
    def settings(self) -> Method:
        """Return the preset with the recipe's own numbers."""
        return PRESETS[self.method].override(alpha=self.alpha, rho=self.rho, damping=self.damping)


class RecipeQuantization(RecipePart):
    """The settings of the storage of tensors."""

    grid: Annotated[str, choice(*GRIDS)] = "Q4_0"
    bits: float | None = Field(default=None, gt=0)
    """The bits a weight, on average over the linears, in place of one grid for all."""

    size: Size = None
    """The most bytes of the model's files in each format, such as 90M, in place of one grid for all."""

    onnx_grid: Annotated[str, choice(*ONNX_GRIDS)] = "Q4_0"
    """The grid that ONNX gets instead of a grid of up to 4 bits that it cannot hold. A grid of more bits is
    replaced by Q8_0.
    """

    embeddings: Annotated[str, choice(*STORAGES)] = "Q8_0"
    keep: list[Name] = []
    """The fnmatch patterns of the names of tensors that stay in F16."""

    overrides: dict[str, Annotated[str, choice(*STORAGES)]] = {}
    """The storage of linears by fnmatch pattern of their names. The first pattern that matches decides, and
    those of `keep` come before these.
    """

    @property
    def layout(self) -> Layout:
        """Return how each tensor is stored."""
        others = {pattern: asked for pattern, asked in self.overrides.items() if pattern not in self.keep}
        return Layout(self.grid, self.embeddings, {**dict.fromkeys(self.keep, "F16"), **others})

    @property
    def chooses(self) -> bool:
        """Return whether grids are chosen by measured loss, within a budget."""
        return self.bits is not None or self.size is not None

    def stand_in(self, format: str) -> str | None:
        """Return the grid that a format's files get instead of a grid of up to 4 bits that the format cannot
        hold, or None for a format that holds all.
        """
        return {"onnx": self.onnx_grid}.get(format)


class RecipeExport(RecipePart):
    """The settings of the written files."""

    formats: Annotated[list[Annotated[str, choice(*FORMATS)]], AfterValidator(distinct)] | None = Field(
        default=None, min_length=1
    )
    """The formats that are written. None: all that the base's family can be written in."""

    split_size: Size = None
    """The most bytes of tensors in one GGUF file, such as 2G. None: one file, however large."""


CLIENTS = (
    "sentence-transformers",
    "transformers.js",
    "onnxruntime-web",
    "onnxruntime-webgpu",
    "onnxruntime-genai",
)
"""The clients that a recipe may ask for."""


class RecipeVerify(RecipePart):
    """What is asked of the verification: how far a written file may be from the reference, what is done where
    the lines of the tasks cannot say, and who else runs the files.
    """

    graph: float = Field(default=1e-3, gt=0)
    """The largest relative rms difference."""

    tasks: Share = 0.02
    """The largest drop in accuracy, 0..1, of a written file below the reference."""

    agreement: Share = 0.98
    """The smallest mean cosine to the reference, for tasks without labels."""

    kl: float = Field(default=0.05, gt=0)
    """The largest mean KL divergence from the reference, in nats, of a language model on tasks without
    labels.
    """

    rule: Annotated[str, choice("confidence", "point")] = "confidence"
    """Whether a loss must be within its margin with 95 % confidence, on average over the tasks, or just as
    measured, on every task.
    """

    each: Annotated[str, choice("warn", "fail")] = "warn"
    """What is done where one task's loss is beyond its margin with 95 % confidence."""

    undecided: Annotated[str, choice("warn", "fail")] = "warn"
    """What is done where the lines are too few to decide."""

    clients: Annotated[list[Annotated[str, choice(*CLIENTS)]], AfterValidator(distinct)] = []
    """The clients that run the files as their users do, beside the runtimes that always do."""

    unrounded: bool = False
    """Whether the calibrated model is scored without its rounding, too, so that what calibration loses and
    what rounding loses are told apart.
    """

    @field_validator("each", "undecided")
    @classmethod
    def _decides(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("rule") == "point":
            raise ValueError(
                f"found {value!r}, which the rule 'point' does not use, expected the key left out"
            )
        return value


class Recipe(RecipePart):
    """Everything that a user asks for."""

    name: Name | None = None
    """The name of the model that comes out, in the names of files and in what they say of themselves. None:
    that of the only expert, or of the base with `-merged`.
    """

    base_model: ModelName = ""
    """The base. For a rule that needs no base it is the first model where the recipe names none; its config
    and tokenizer are used.
    """

    merge_method: Name = "tsvm"
    merge_convention: Annotated[str, choice(*CONVENTIONS)] = "paper"
    models: list[RecipeModel] = []
    """The models as written, with the base where it is listed. Where the recipe names no models, they are the
    experts of the tasks.
    """

    slices: list[RecipeSlice] = []
    modules: dict[str, RecipeModule] = {}
    parameters: Parameters = {}
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: Name | None = None
    tokenizer: RecipeTokenizer | None = None
    chat_template: Name | None = None
    tasks: dict[str, RecipeTask] = {}
    frozen: list[Name] | None = None
    """The fnmatch patterns of the names of tensors that stay the base's. None: the patterns of the base's
    family.
    """

    calibration: RecipeCalibration = RecipeCalibration()
    quantization: RecipeQuantization = RecipeQuantization()
    export: RecipeExport = RecipeExport()
    verify: RecipeVerify = RecipeVerify()

    _path: Path = PrivateAttr()
    _document: Document = PrivateAttr()
    _context: Context = PrivateAttr()

    def with_source(self, path: Path, document: Document, context: Context) -> Self:
        """Return the recipe with its origin: its file, the file's content as plain data, and the data files
        that it names.
        """
        self._path, self._document, self._context = path, document, context
        return self

    @property
    def path(self) -> Path:
        """Return the recipe's file."""
        return self._path

    @property
    def directory(self) -> Path:
        """Return the absolute directory that relative paths are relative to."""
        return self._context.directory

    @property
    def source(self) -> dict[str, Any]:
        """Return the recipe as written, as plain data that JSON can hold."""
        return self._document.data

    @property
    def files(self) -> list[Path]:
        """Return every data file that the recipe names, absolute, in its order, each once."""
        return list(self._context.files)

    @property
    def experts(self) -> list[RecipeModel]:
        """Return the models to merge, each once.

        The base, which mergekit's files list too, is among them only for a rule that needs no base.
        """
        listed = {self.location(model.model): model for model in reversed(self.listed())}
        base = None if self.counts_base else self.location(self.base_model)
        order = dict.fromkeys(self.location(model.model) for model in self.listed())
        return [listed[place] for place in order if place != base]

    def listed(self) -> list[RecipeModel]:
        """Return every model that `models`, `slices` or `modules` name, as often as they do.

        They have parameters only where `models` has them.
        """
        models, slices = list(self.models), list(self.slices)
        for module in self.modules.values():
            models, slices = models + module.models, slices + module.slices
        sources = [source for part in slices for source in part.sources]
        return models + [RecipeModel.model_construct(model=source.model) for source in sources]

    @property
    def counts_base(self) -> bool:
        """Return whether the rule needs no base, and merges a base that is listed like any other model."""
        return self.merge_method in RULES and RULES[self.merge_method].counts_base

    def with_base(self, base: Path) -> "Recipe":
        """Return the recipe with another base model, which stands in for the one that it names."""
        return self.model_copy(update={"base_model": str(base)})

    @property
    def base_named(self) -> str:
        """Return the base model as the recipe names it, whatever stands in for it."""
        return self.base_model if self.stand_in is None else self.source.get("base_model", self.base_model)

    @property
    def stand_in(self) -> Path | None:
        """Return the base model that stands in for the one that the recipe names, or None."""
        base = Path(self.base_model)
        return base if base.is_absolute() and self.source.get("base_model") != self.base_model else None

    def location(self, name: str) -> str:
        """Return the absolute path of a model directory, or its hub id; of `model+adapter` part by part."""
        return location(name, self.directory)

    def mistake(self, key: Key, message: str) -> RecipeError:
        """Return the error `recipe.yaml:12: parameters.density: MESSAGE`, for a value that turns out to be
        wrong later on.
        """
        return refusal(self.path, self._document, [(key, message)])

    @contextmanager
    def located(self) -> Iterator[None]:
        """Raise a SettingError from inside the block as `mistake` gives it: with the recipe's file and the
        key's line.
        """
        try:
            yield
        except SettingError as error:
            raise self.mistake(error.key, error.message) from None

    def require_tasks(self) -> Self:
        """Return the recipe. Raises RecipeError where it has no tasks."""
        if not self.tasks:
            raise self.mistake(
                ("tasks",),
                (
                    "found none, expected at least one task (its expert and a calibration file): only "
                    "`merge` "
                    "works without"
                ),
            )
        return self
