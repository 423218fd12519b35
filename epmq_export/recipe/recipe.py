"""What the user asked for, validated: a superset of mergekit's YAML (docs/recipe.md has every key).

Relative paths are relative to the recipe. Every mistake is one sentence with the line, the key, what was
found and what was expected; of several, the first in the file is told, and how many more there are.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
)

from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS, REFINE_STEPS, Method
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


def _steps(value: object) -> object:
    if isinstance(value, bool):
        return REFINE_STEPS if value else 0
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"found {shown(value)}, expected true, false or a number of steps")
    return value


class RecipeCalibration(RecipePart):
    """How the merge is calibrated."""

    method: Annotated[str, choice(*PRESETS)] = DEFAULT_METHOD
    samples: int = Field(default=64, ge=1)
    """Texts or images a task."""

    alpha: Share | None = None
    rho: Annotated[float | Literal["auto"] | None, BeforeValidator(_rho)] = None
    damping: float | None = Field(default=None, ge=0, alias="lambda")
    seed: int = Field(default=0, ge=0, lt=2**63)
    tune: bool = False
    """Whether alpha, rho and lambda are searched on held-out calibration texts, from the given ones on."""

    refine: Annotated[int, BeforeValidator(_steps)] = 0
    """Steps of distillation after the last block."""

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
    def settings(self) -> Method:
        """Return the preset with the recipe's own numbers."""
        return PRESETS[self.method].override(alpha=self.alpha, rho=self.rho, damping=self.damping)


class RecipeQuantization(RecipePart):
    """What tensors are stored as."""

    grid: Annotated[str, choice(*GRIDS)] = "Q4_0"
    bits: float | None = Field(default=None, gt=0)
    """A weight, on average over the linears, in place of one grid for all."""

    onnx_grid: Annotated[str, choice(*ONNX_GRIDS)] = "Q4_0"
    """What stands in ONNX for a grid of up to 4 bits that it cannot hold; for one of more, Q8_0 does."""

    embeddings: Annotated[str, choice(*STORAGES)] = "F16"
    keep: list[Name] = []
    """fnmatch patterns of the tensor names that stay in F16."""

    overrides: dict[str, Annotated[str, choice(*STORAGES)]] = {}
    """What linears are stored as, by fnmatch pattern of their names; the first that matches is the one,
    `keep` before them.
    """

    @property
    def layout(self) -> Layout:
        """Return which tensor is stored how."""
        others = {pattern: asked for pattern, asked in self.overrides.items() if pattern not in self.keep}
        return Layout(self.grid, self.embeddings, {**dict.fromkeys(self.keep, "F16"), **others})

    def stand_in(self, format: str) -> str | None:
        """Return what stands in, in a format's files, for a grid of up to 4 bits that it cannot hold."""
        return {"onnx": self.onnx_grid}.get(format)


class RecipeExport(RecipePart):
    """What is written."""

    formats: Annotated[list[Annotated[str, choice("gguf", "onnx")]], AfterValidator(distinct)] | None = Field(
        default=None, min_length=1
    )
    """None: all that the base's family can be written in."""

    split_size: Size = None
    """The most that the tensors of one GGUF file may take; None: one file, however large."""


class RecipeVerify(RecipePart):
    """How far a written file may be from the reference."""

    graph: float = Field(default=1e-3, gt=0)
    """Largest rms relative difference."""

    tasks: Share = 0.02
    """Largest drop in accuracy, 0..1, of a written file below the reference."""

    agreement: Share = 0.98
    """Smallest mean cosine to the reference, for tasks without labels."""

    kl: float = Field(default=0.05, gt=0)
    """Largest mean KL divergence from the reference, in nats, of a language model on tasks without labels."""


class Recipe(RecipePart):
    """What the user asked for."""

    base_model: ModelName = ""
    """For a rule that needs no base, the first model where the recipe names none: its config and tokenizer
    are used.
    """

    merge_method: Name = "tsvm"
    merge_convention: Annotated[str, choice(*CONVENTIONS)] = "paper"
    models: list[RecipeModel] = []
    """As written, base included where it is listed; the experts of the tasks where the recipe says nothing
    else.
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
    """fnmatch patterns of the tensor names that stay the base's; None: what the base's family says."""

    calibration: RecipeCalibration = RecipeCalibration()
    quantization: RecipeQuantization = RecipeQuantization()
    export: RecipeExport = RecipeExport()
    verify: RecipeVerify = RecipeVerify()

    _path: Path = PrivateAttr()
    _document: Document = PrivateAttr()
    _context: Context = PrivateAttr()

    def with_source(self, path: Path, document: Document, context: Context) -> Self:
        """Return the recipe with where it was read: its file, that as plain data, and what it names."""
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
        """Return the recipe as written: what JSON can hold."""
        return self._document.data

    @property
    def files(self) -> list[Path]:
        """Return every data file that the recipe names, absolute, in its order, once."""
        return list(self._context.files)

    @property
    def experts(self) -> list[RecipeModel]:
        """Return the models to merge, each once.

        The base, which mergekit's files list too, is among them only for a rule that knows no base.
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
        """Whether the rule needs no base, and counts one that is listed as one of the models."""
        return self.merge_method in RULES and RULES[self.merge_method].counts_base

    def with_base(self, base: Path) -> "Recipe":
        """Return the recipe with another base model, which stands in for the one that it names."""
        return self.model_copy(update={"base_model": str(base)})

    def location(self, name: str) -> str:
        """Return the absolute path of a model directory, or its hub id; of `model+adapter` part by part."""
        return location(name, self.directory)

    def mistake(self, key: Key, message: str) -> RecipeError:
        """Return the error `recipe.yaml:12: parameters.density: MESSAGE`, for a value that is found wrong
        later on.
        """
        return refusal(self.path, self._document, [(key, message)])

    @contextmanager
    def located(self) -> Iterator[None]:
        """Raise a SettingError from inside as `mistake` has it: with the recipe's file and the key's line."""
        try:
            yield
        except SettingError as error:
            raise self.mistake(error.key, error.message) from None

    def require_tasks(self) -> Self:
        """Return the recipe; RecipeError where it has no tasks."""
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
