"""What a run will do, write, hold in memory and take: from a recipe, what of it is here, and costs.py.

Nothing is downloaded and nothing is calibrated; of the weights only one block's are read.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from epmq_export.calibration.method import Method
from epmq_export.calibration.refinement import Refinement
from epmq_export.data.task import Task
from epmq_export.errors import MissingRuntime
from epmq_export.grids import GRIDS, Grid
from epmq_export.grids.layout import storage_name
from epmq_export.merging.registry import RULES
from epmq_export.models.blocks import linears
from epmq_export.models.family import Family, heads_of
from epmq_export.models.format import PlannedTensor
from epmq_export.pipeline.forecast import inventory as local
from epmq_export.pipeline.forecast.around import (
    WRITTEN,
    AroundForecast,
    around_of,
    merged_at_once,
    merging,
    readings,
)
from epmq_export.pipeline.forecast.checking import checked_of, checking_seconds
from epmq_export.pipeline.forecast.costs import (
    Samples,
    Shape,
    Speed,
    measure,
    memory_of,
    passes_of,
    seconds_of,
    shape_of,
    work_of,
)
from epmq_export.pipeline.forecast.inventory import Found
from epmq_export.pipeline.forecast.opened import Opened, middle_linears, open_models, said_of_task_vectors
from epmq_export.pipeline.forecast.planned import planned_index, planned_tensors, tensor_shapes
from epmq_export.pipeline.forecast.record import FileForecast, Forecast, Time
from epmq_export.pipeline.forecast.refining import refining_of
from epmq_export.pipeline.forecast.samples import batch_bytes, lessons_here, samples_of, tasks_here
from epmq_export.pipeline.forecast.verifying import verifying_of
from epmq_export.pipeline.refinement import refinement_of
from epmq_export.pipeline.registry import Registry
from epmq_export.pipeline.requirements import (
    formats_of,
    require_formats,
    require_kind,
    require_readable,
)
from epmq_export.pipeline.size_limit import SizeLimit
from epmq_export.pipeline.targets import Target, targets
from epmq_export.recipe.plan import plan_of
from epmq_export.recipe.recipe import Recipe
from epmq_export.recipe.values import size_in_bytes


@dataclass(frozen=True)
class Forecaster:
    """What the forecast needs of the other rooms."""

    registry: Registry
    device: torch.device

    def forecast(self, recipe: Recipe) -> Forecast:
        """Return what can be said of a recipe.

        RecipeError where the recipe contradicts itself or a model that is here, InputError for a broken file
        that is here.
        """
        plan_of(recipe)
        models, data = local.models(recipe, self.registry.open_gguf), local.data(recipe)
        experts = len(recipe.experts)
        cost = RULES[recipe.merge_method].cost.format(experts=experts, more=experts + 1)
        merge = f"{recipe.merge_method}: {cost}"
        method = recipe.calibration.settings
        base = models[0]
        if base.directory is None:
            unknown = [
                (
                    "base: not here: family, grids, sizes, memory and time are not known; its config, "
                    "tokenizer and image processor in the hub's cache are enough"
                )
            ]
            return Forecast(str(recipe.path), models, data, merge, _said(method, recipe, None), unknown)
        plain = self.registry.open_family(Path(base.directory))
        opened = open_models(recipe, plain, models, self.registry)
        family = opened.family
        require_formats(recipe, family)
        require_kind(recipe, family)
        require_readable(recipe, family, formats_of(recipe, family))
        return self._of_family(recipe, models, data, merge, opened)

    def _of_family(
        self,
        recipe: Recipe,
        models: Sequence[Found],
        data: Sequence[Found],
        merge: str,
        opened: Opened,
    ) -> Forecast:
        family, method = opened.family, recipe.calibration.settings
        unknown, notes = list[str](), opened.notes
        if not models[0].whole:
            unknown.append("the base's weights are not here: shapes are those of its config")
        heads = {head.task for head in heads_of(family)}
        if missing := [name for name in recipe.tasks if heads and name not in heads]:
            unknown.append(f"the classifiers of {', '.join(missing)} are not here: sizes are without them")
        tasks = tasks_here(recipe, family)
        samples = samples_of(recipe, family, tasks, unknown)
        names = formats_of(recipe, family)
        calibrated = targets(recipe, family, self.registry.formats, names)
        replaced = {name: target.replaced for target in calibrated for name in target.formats}
        shapes = tensor_shapes(family)
        planned = {
            name: planned_tensors(family, shapes, recipe.quantization.layout.replaced(replaced[name]), notes)
            for name in names
        }
        _require_size(recipe, family, models, calibrated, shapes)
        files = self._files(recipe, family, models, planned, unknown)
        notes += self._missing_runtimes(recipe, family, names)
        blocks = [shape_of(block) for block in family.blocks]
        rounded = _rounded_embeddings(family, planned)
        work = work_of(blocks, samples, method, rounded)
        calibrations = calibrations_of(recipe, len(calibrated))
        speed = measure(blocks, self.device)
        known = _Known(recipe=recipe, opened=opened, tasks=tasks, samples=samples, blocks=blocks, speed=speed)
        lessons = lessons_here(recipe, family, tasks, samples)
        fewest = samples.samples // max(samples.tasks, 1)
        settings = refinement_of(recipe, family, fewest, lessons.samples)
        refine = None if settings is None else refining_of(blocks, lessons, settings, len(calibrated), speed)
        return Forecast(
            recipe=str(recipe.path),
            models=models,
            data=data,
            merge=merge,
            method=_said(method, recipe, settings),
            task_vectors=said_of_task_vectors(family, opened),
            unknown=unknown,
            family=family.name,
            grids=_grids(recipe, family, planned),
            notes=list(dict.fromkeys(notes)),
            files=files,
            samples=samples,
            passes=passes_of(blocks, samples, method),
            memory=memory_of(
                blocks, samples, method, batch_bytes(family, samples), merged_at_once(recipe, family)
            ),
            verify=None
            if not files
            else verifying_of(
                family,
                blocks,
                shapes,
                [line for task in tasks for line in task.evaluation],
                samples.tokens,
                self._in_runtimes(recipe, family, files),
            ),
            work=work,
            time=Time(seconds_of(work, speed, calibrations), calibrations, speed),
            refine=refine,
            around=self._around(known, files, unknown),
        )

    def _around(
        self, known: "_Known", files: Sequence[FileForecast], unknown: list[str]
    ) -> AroundForecast | None:
        """Return the time of what stands around the calibration; None where the lines that judge are not
        known, or grids are chosen by measured loss. What it does not count is added to `unknown`.
        """
        recipe, opened, family = known.recipe, known.opened, known.opened.family
        if not files or len(known.tasks) < len(recipe.tasks):
            unknown.append("the merge, writing and scoring are not part of the time")
            return None
        seconds = None
        if len(opened.experts) == len(recipe.experts) and opened.base is not None:
            numbers = sum(block.numbers for block in known.blocks)
            names = middle_linears(family, opened.base)
            seconds = merging(recipe, opened.base, opened.experts, names, numbers)
        else:
            unknown.append("the merge is not part of the time: some of its models are not here")
        return around_of(
            seconds,
            known.blocks,
            sum(len(task.evaluation) * readings(family, task) for task in known.tasks),
            known.samples.tokens,
            len(recipe.experts) + 3,
            [
                (
                    self.registry.formats[name].fixed_seconds,
                    size,
                    len(self.registry.readers(family, name, recipe.verify.clients)),
                )
                for name, size in _bytes_by_format(files).items()
            ],
            checking_seconds(checked_of(family), known.blocks, known.speed, WRITTEN),
            known.speed,
        )

    def _files(
        self,
        recipe: Recipe,
        family: Family,
        models: Sequence[Found],
        planned: Mapping[str, Mapping[str, PlannedTensor]],
        unknown: list[str],
    ) -> list[FileForecast]:
        """Return the files of each format with their sizes; none where a budget chooses the grids."""
        if recipe.quantization.chooses:
            key = "size" if recipe.quantization.bits is None else "bits"
            unknown.append(f"quantization.{key} chooses grids by measured loss: file sizes are not said")
            return []
        index = planned_index(recipe, models)
        return [
            FileForecast(name, path, sum(types.values()), dict(types))
            for name, tensors in planned.items()
            for path, types in self.registry.formats[name].sizes(tensors, family, index).items()
        ]

    def _missing_runtimes(self, recipe: Recipe, family: Family, names: Sequence[str]) -> list[str]:
        """Return what is to be installed before the files can be verified, a sentence each."""
        found, clients = [], recipe.verify.clients
        for runtime in (each for name in names for each in self.registry.readers(family, name, clients)):
            try:
                runtime.version()
            except MissingRuntime as error:
                found.append(str(error))
        return found

    def _in_runtimes(self, recipe: Recipe, family: Family, files: Sequence[FileForecast]) -> float:
        """Return the bytes that this process holds of a model while a runtime runs it, at the most."""
        return max(
            size * runtime.copies
            for name, size in _bytes_by_format(files).items()
            for runtime in self.registry.readers(family, name, recipe.verify.clients)
        )


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What costs are computed from, once the base is here."""

    recipe: Recipe
    opened: Opened
    tasks: Sequence[Task]
    """The tasks whose data are here."""

    samples: Samples
    blocks: Sequence[Shape]
    speed: Speed


def _bytes_by_format(files: Sequence[FileForecast]) -> Mapping[str, int]:
    """Return the bytes of all files of each format."""
    sizes = Counter[str]()
    for file in files:
        sizes[file.format] += file.bytes
    return sizes


def _rounded_embeddings(family: Family, planned: Mapping[str, Mapping[str, PlannedTensor]]) -> int:
    """Return the numbers of the embeddings that a format has on a grid, of that which has most of them."""
    return max(
        sum(
            prod(tensors[name].shape) for name in family.embeddings if isinstance(tensors[name].storage, Grid)
        )
        for tensors in planned.values()
    )


def _require_size(
    recipe: Recipe,
    family: Family,
    models: Sequence[Found],
    calibrated: Sequence[Target],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Raise RecipeError for a size that the smallest grids of a format do not reach."""
    size = recipe.quantization.size
    for target in calibrated if size is not None else ():
        layout = recipe.quantization.layout.replaced(target.replaced)
        candidates = [GRIDS[name] for name in target.candidates]
        index = planned_index(recipe, models)
        limit = SizeLimit(size_in_bytes(size), target.writers, family, shapes, index)
        limit.require(recipe, layout, candidates)


def _grids(
    recipe: Recipe, family: Family, planned: Mapping[str, Mapping[str, PlannedTensor]]
) -> dict[str, dict[str, str]]:
    """Return what each calibrated linear is stored on, by format and by name."""
    bits, size = recipe.quantization.bits, recipe.quantization.size
    if recipe.quantization.chooses:
        word = f"grids by measured loss, in files of at most {size}"
        if bits is not None:
            word = f"{bits:g} bits a weight on average, by measured loss"
        return {format: dict.fromkeys(linears(family), word) for format in planned}
    return {
        format: {name: storage_name(tensors[name].storage) for name in linears(family)}
        for format, tensors in planned.items()
    }


def calibrations_of(recipe: Recipe, apart: int) -> tuple[int, int]:
    """Return the least and the most times that the whole walk is done.

    Each of the calibrations that formats take apart has a rehearsal for a budget, and the trials of a search.
    `verify.unrounded` asks for another one.
    """
    once = 1 + (1 if recipe.quantization.chooses else 0)
    tune = (6, 14) if recipe.calibration.tune else (0, 0)
    more = int(recipe.verify.unrounded)
    return apart * (once + tune[0]) + more, apart * (once + tune[1]) + more


def _said(method: Method, recipe: Recipe, refinement: Refinement | None) -> str:
    """Return the method's name and numbers, and what is done besides."""
    numbers = (
        ""
        if method.target == "merged"
        else f" (alpha {method.alpha:g}, rho {method.rho}, lambda {method.damping:g})"
    )
    calibration = recipe.calibration
    more = [
        ", searched by tune" if calibration.tune else "",
        "" if refinement is None else f", then {_what_of(refinement)}",
    ]
    return f"{method.name}{numbers}, rounding by {method.rounding}{''.join(more)}"


def _what_of(refinement: Refinement) -> str:
    """Return what is refined, in words."""
    return f"{refinement.steps} steps of refine" + ("" if refinement.weights else " for biases and norms")
