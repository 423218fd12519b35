"""What a run will do, write, hold in memory and take: from a recipe, what of it is here, and costs.py.

Nothing is downloaded, no weight is read, and nothing is calibrated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import torch

from epmq_export._version import __version__
from epmq_export.calibration.calibrator import BATCH
from epmq_export.calibration.method import Method
from epmq_export.calibration.uncalibrated import carried_linears
from epmq_export.errors import MissingRuntime
from epmq_export.grids import Grid
from epmq_export.grids.layout import Layout, Storage, storage_name
from epmq_export.merging.registry import RULES
from epmq_export.models.blocks import linears
from epmq_export.models.family import Family, halves, towers
from epmq_export.models.format import PlannedTensor
from epmq_export.pipeline.forecast import inventory as local
from epmq_export.pipeline.forecast.costs import (
    FLOAT,
    Memory,
    Samples,
    Speed,
    Work,
    measure,
    memory_of,
    passes_of,
    seconds_of,
    shape_of,
    work_of,
)
from epmq_export.pipeline.forecast.inventory import Found
from epmq_export.pipeline.models import frozen_tensors
from epmq_export.pipeline.registry import Registry
from epmq_export.pipeline.requirements import (
    formats_of,
    require_answerable,
    require_formats,
    require_kind,
    require_readable,
)
from epmq_export.pipeline.targets import targets
from epmq_export.pipeline.tasks import load_tasks
from epmq_export.recipe.plan import plan_of
from epmq_export.recipe.recipe import Recipe
from epmq_export.recipe.values import size_in_bytes
from epmq_export.tensors.checkpoint import Checkpoint, OpenGguf, open_checkpoint
from epmq_export.tensors.compatible import require_fit, require_same_vocabulary
from epmq_export.tensors.packed_index import PackedIndex
from epmq_export.tensors.source import renamed, without


@dataclass(frozen=True)
class FileForecast:
    """A file that a run writes."""

    format: str
    """The name of its format."""

    path: str
    """Where it lies in the format's directory."""

    bytes: int
    """How large it is."""

    types: Mapping[str, int]
    """The bytes of its data by their type, and as `rest` those of all else."""


@dataclass(frozen=True)
class Time:
    """How long the calibration takes."""

    seconds: tuple[float, float]
    """The least and the most."""

    calibrations: tuple[int, int]
    """How many calibrations the recipe asks for, those of its searches included: the least and the most."""

    speed: Speed
    """What the times are computed from."""


@dataclass(frozen=True)
class Forecast:
    """What a run of a recipe will do, write, hold in memory and take.

    What cannot be said without the base's config and tokenizer is None or empty.
    """

    recipe: str
    """The recipe's file."""

    models: Sequence[Found]
    """The base, then the experts."""

    data: Sequence[Found]
    """The data of the tasks."""

    merge: str
    """The merge rule, and what it costs."""

    method: str
    """The calibration method, and its numbers."""

    unknown: Sequence[str]
    """What cannot be said, and why, a sentence each."""

    family: str | None = None
    """The name of the model family."""

    grids: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What each calibrated linear is stored on, by format and by name."""

    notes: Sequence[str] = ()
    """What is not stored as the recipe asks in general, a sentence each."""

    files: Sequence[FileForecast] = ()
    """The files that are written."""

    samples: Samples | None = None
    """What is calibrated on."""

    passes: Mapping[str, int] = field(default_factory=dict)
    """How many batches there are, and how often one goes through a block of the student and of an expert."""

    memory: Memory | None = None
    """What is held at the peak."""

    work: Work | None = None
    """What one calibration computes."""

    time: Time | None = None
    """How long it takes."""

    def as_dict(self) -> dict[str, Any]:
        """Return the forecast for JSON, as `epmq run --dry-run --json` prints it."""
        found = asdict(self)
        for place, each in zip([*found["models"], *found["data"]], [*self.models, *self.data], strict=True):
            place["state"] = each.sentence
        if self.memory is not None:
            found["memory"]["peak"] = self.memory.peak
        return found


@dataclass(frozen=True)
class Forecaster:
    """What the forecast needs of the other rooms."""

    registry: Registry
    device: torch.device

    def forecast(self, recipe: Recipe) -> Forecast:
        """RecipeError where the recipe contradicts itself or a model that is here, InputError for a broken
        file that is here.
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
            return Forecast(str(recipe.path), models, data, merge, _said(method, recipe), unknown)
        family = self.registry.open_family(Path(base.directory))
        require_formats(recipe, family)
        require_kind(recipe, family)
        require_readable(recipe, family, formats_of(recipe, family))
        _require_models(recipe, family, models, self.registry.open_gguf)
        return self._of_family(recipe, family, models, data, merge)

    def _of_family(
        self, recipe: Recipe, family: Family, models: Sequence[Found], data: Sequence[Found], merge: str
    ) -> Forecast:
        method, unknown = (
            recipe.calibration.settings,
            [] if models[0].whole else ["the base's weights are not here: shapes are those of its config"],
        )
        notes: list[str] = []
        shapes = tensor_shapes(family)
        samples = self._samples(recipe, family, unknown)
        blocks = [shape_of(block) for block in family.blocks]
        names = formats_of(recipe, family)
        grids: dict[str, dict[str, str]] = {}
        files: list[FileForecast] = []
        shipped = 0
        calibrated = targets(recipe, family, self.registry.formats, names)
        replaced = {name: target.replaced for target in calibrated for name in target.formats}
        for name in names:
            layout = recipe.quantization.layout.replaced(replaced[name])
            planned = planned_tensors(family, shapes, layout, notes)
            shipped = max(shipped, _shipped(planned))
            grids[name] = {each: storage_name(planned[each].storage) for each in linears(family)}
            if recipe.quantization.bits is not None:
                grids[name] = dict.fromkeys(
                    grids[name], f"{recipe.quantization.bits:g} bits a weight on average, by measured loss"
                )
                continue
            sizes = self.registry.formats[name].sizes(planned, family, _origin(recipe, models))
            files += [
                FileForecast(name, path, sum(types.values()), dict(types)) for path, types in sizes.items()
            ]
        if recipe.quantization.bits is not None:
            unknown.append("quantization.bits chooses grids by measured loss: file sizes are not said")
        for runtime in (each for name in names for each in self.registry.readers(family, name)):
            try:
                runtime.version()
            except MissingRuntime as error:
                notes.append(str(error))
        unknown.append("the merge, refine, writing and scoring are not part of the time")
        work, calibrations = work_of(blocks, samples, method), calibrations_of(recipe, len(calibrated))
        speed = measure(blocks, self.device)
        return Forecast(
            str(recipe.path),
            models,
            data,
            merge,
            _said(method, recipe),
            unknown,
            family.name,
            grids,
            list(dict.fromkeys(notes)),
            files,
            samples,
            passes_of(blocks, samples, method),
            memory_of(blocks, samples, method, self._batch_bytes(family, samples), shipped),
            work,
            Time(seconds_of(work, speed, calibrations), calibrations, speed),
        )

    def _samples(self, recipe: Recipe, family: Family, unknown: list[str]) -> Samples:
        """Of texts in files, the very batches; else the number that the recipe asks for, of the family's
        length. The hub's library would ask a network.
        """
        asked = recipe.calibration.samples
        places = [place for task in recipe.tasks.values() for _, place in task.data]
        if family.images is None and all(
            isinstance(place, Path) or place.path is not None for place in places
        ):
            tasks = load_tasks(recipe, family)
            require_answerable(family, tasks)
            lengths = []
            for task in tasks:
                texts = sorted(
                    (family.truncate(sample) for sample in task.calibration), key=lambda text: len(str(text))
                )
                lengths += [batch["input_ids"].shape for batch in family.batches(texts, BATCH)]
            count = sum(len(task.calibration) for task in tasks)
            return Samples(len(tasks), count, sum(prod(shape) for shape in lengths) / count, True)
        unknown.append(f"the data are not read: {asked} samples a task are assumed, as the recipe asks")
        return Samples(len(recipe.tasks), asked * len(recipe.tasks), _tokens(family), False)

    def _batch_bytes(self, family: Family, samples: Samples) -> float:
        """What the first block reads of a sample: ids of 8 bytes with what comes beside them, or pixels."""
        images = family.images
        return 3 * 8 * samples.tokens if images is None else float(FLOAT * images.numbers)


def tensor_shapes(family: Family) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of the exported model, by the family's own modules: its config alone
    decides them.
    """
    found = {
        f"{block.prefix}{path}": tuple(value.shape)
        for tower in towers(family)
        for block in tower.blocks
        for path, value in block.build().state_dict().items()
    }
    scale = None if family.zero_shot is None else family.zero_shot.logit_scale
    return found if scale is None else {**found, scale: ()}


def planned_tensors(
    family: Family, shapes: Mapping[str, tuple[int, ...]], layout: Layout, notes: list[str]
) -> dict[str, PlannedTensor]:
    """How each tensor will be stored, as `Calibrator` and `rest` decide it; what is not as the recipe asks is
    noted.
    """
    calibrated, still, half = set(linears(family)), set(carried_linears(family)), halves(family)
    planned = {}
    for name, shape in shapes.items():
        storage: Storage = torch.float16 if name in half or name in still else torch.float32
        note = None
        if name in family.embeddings:
            storage, note = layout.embedding(name, shape)
        elif name in calibrated or (name in still and layout.pattern(name) is not None):
            storage, note = layout.linear(name, shape)
        notes += [note] if note is not None else []
        planned[name] = PlannedTensor(shape, storage)
    return planned


def _shipped(planned: Mapping[str, PlannedTensor]) -> int:
    """Bytes of the calibrated tensors as they are held: a byte a code, and about one in 16 beside it; others
    by their dtype.
    """
    sizes = [
        prod(tensor.shape) * (17 / 16 if isinstance(tensor.storage, Grid) else tensor.storage.itemsize)
        for tensor in planned.values()
    ]
    return int(sum(sizes))


def calibrations_of(recipe: Recipe, apart: int) -> tuple[int, int]:
    """Return the least and the most times that the whole walk is done.

    Each of the calibrations that formats take apart has a rehearsal for a budget, and the trials of a search.
    """
    once = 1 + (1 if recipe.quantization.bits is not None else 0)
    tune = (6, 14) if recipe.calibration.tune else (0, 0)
    return apart * (once + tune[0]), apart * (once + tune[1])


def _require_models(recipe: Recipe, family: Family, models: Sequence[Found], open_gguf: OpenGguf) -> None:
    """InputError for a model that is here and does not fit; headers and tokenizers only."""
    base, *experts = models
    if not base.whole:
        return
    opened = open_checkpoint(
        local.local_location(base, recipe.location(recipe.base_model)), open_gguf=open_gguf
    )
    source = renamed(opened, family.canonical)
    held = set(frozen_tensors(recipe, source, family.frozen))
    moving = without(source, held)
    for found, model in zip(experts, recipe.experts, strict=True):
        if not found.whole:
            continue
        expert: Checkpoint = open_checkpoint(
            local.local_location(found, recipe.location(model.model)), opened, open_gguf=open_gguf
        )
        require_same_vocabulary(opened.model_directory, expert.directory, model.model)
        require_fit(moving, without(renamed(expert, family.canonical), held), model.model)


def _origin(recipe: Recipe, models: Sequence[Found]) -> PackedIndex:
    """As large as what packed.json says of the origin: two or three files a model, the data, each with a
    digest.
    """
    paths = [f"{found.name}/{name}" for found in models for name in ("config.json", "model.safetensors")]
    paths += [
        f"{models[0].name}/{name}"
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    ]
    paths += [str(path.name) for path in recipe.files]
    versions = dict.fromkeys(
        ("epmq-export", "torch", "transformers", "tokenizers", "numpy", "safetensors", "pillow"),
        __version__,
    )
    inputs: list[Mapping[str, str]] = [{"path": path, "sha256": "0" * 64} for path in paths]
    split = recipe.export.split_size
    return PackedIndex(
        family="",
        method=asdict(recipe.calibration.settings),
        recipe=recipe.source,
        inputs=inputs,
        versions=versions,
        split_bytes=None if split is None else size_in_bytes(split),
    )


# Of a language model's text, where nothing better is known.
TOKENS = 256


def _said(method: Method, recipe: Recipe) -> str:
    """The method's name and numbers, and what is done besides."""
    numbers = (
        ""
        if method.target == "merged"
        else f" (alpha {method.alpha:g}, rho {method.rho}, lambda {method.damping:g})"
    )
    calibration = recipe.calibration
    more = [
        ", searched by tune" if calibration.tune else "",
        f", then {calibration.refine} steps of refine" if calibration.refine else "",
    ]
    return f"{method.name}{numbers}, rounding by {method.rounding}{''.join(more)}"


def _tokens(family: Family) -> float:
    """Return the tokens of a sample where no data are read: of a picture all that it has, of a text the most
    that the model takes, where a table of positions says it.
    """
    if family.images is not None:
        return float(family.images.tokens)
    positions = [
        shape[-2]
        for name, shape in tensor_shapes(family).items()
        if "position_embedding" in name and len(shape) > 1
    ]
    return float(positions[0] if positions else TOKENS)
