"""The tensors and the origin of a packed checkpoint that is not made yet."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from epmq_export._version import __version__
from epmq_export.calibration.storage import storage_of
from epmq_export.grids.layout import Layout
from epmq_export.models.family import Family, of_cosines, towers
from epmq_export.models.format import PlannedTensor
from epmq_export.pipeline.about import name_of
from epmq_export.pipeline.forecast.inventory import Found
from epmq_export.recipe.published import published
from epmq_export.recipe.recipe import Recipe
from epmq_export.recipe.values import size_in_bytes
from epmq_export.tensors.about import About
from epmq_export.tensors.packed_index import PackedIndex


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
    return {**found, **of_cosines(family)}


def planned_tensors(
    family: Family, shapes: Mapping[str, tuple[int, ...]], layout: Layout, notes: list[str]
) -> dict[str, PlannedTensor]:
    """Return how each tensor will be stored, by its name; add to `notes` what is not as the recipe asks."""
    storage = storage_of(family, layout)
    planned = {}
    for name, shape in shapes.items():
        stored, note = storage(name, shape)
        notes += [note] if note is not None else []
        planned[name] = PlannedTensor(shape, stored)
    return planned


def planned_index(recipe: Recipe, models: Sequence[Found]) -> PackedIndex:
    """Return an index as large as the one that packed.json will hold: two or three files a model, the data,
    each with a digest.
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
        about=About(name_of(recipe)),
        method=asdict(recipe.calibration.settings),
        recipe=published(recipe.source, recipe.directory),
        inputs=inputs,
        versions=versions,
        split_bytes=None if split is None else size_in_bytes(split),
    )
