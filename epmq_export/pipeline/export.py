"""The stage `export`: a packed checkpoint as files of each format."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from epmq_export import files
from epmq_export.errors import RecipeError
from epmq_export.files.room import require_room
from epmq_export.models.family import Family, default_formats
from epmq_export.models.format import Format
from epmq_export.pipeline.progress import Stages
from epmq_export.pipeline.registry import Registry
from epmq_export.recipe.values import size_in_bytes
from epmq_export.tensors.packed import Packed, exported_bytes

log = logging.getLogger(__name__)


def export(
    registry: Registry, packed: Packed, output: Path, formats: Sequence[str], overwrite: bool, stages: Stages
) -> list[Path]:
    """Write OUTPUT/FORMAT for each format, or for all that the family can be written in where none is named.

    Returns the files that tasks are judged by. Each format's directory is written whole or not at all.
    Raises RecipeError for a format that the family cannot be written in, and for a directory that is there
    already and is not to be overwritten.
    """
    family = registry.open_family(packed.directory)
    names = formats or default_formats(family)
    if lacking := [name for name in names if name not in family.exports]:
        raise RecipeError(
            f"--format {lacking[0]}: family {family.name} cannot be written in it, expected "
            f"{' or '.join(family.exports)}"
        )
    written = []
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(files.locked(output / name))
            files.refuse_existing(output / name, overwrite)
            if packed.directory.resolve().is_relative_to((output / name).resolve()):
                raise RecipeError(
                    f"{output / name}: found {packed.directory} there, which is read, expected another place"
                )
        size = sum(exported_bytes(packed.shape(name), packed.storage(name)) for name in packed.names())
        require_room({output: len(names) * size})
        for name in names:
            with stages.stage(f"write {name}"), files.whole(output / name) as built:
                built.mkdir()
                model = registry.formats[name].write(packed, family, built).relative_to(built)
            written.append(output / name / model)
            _tell_if_larger(registry.formats[name], packed, family, written[-1])
    return written


def _tell_if_larger(format: Format, packed: Packed, family: Family, model: Path) -> None:
    """Log a warning where the files of a model take more than the recipe's quantization.size."""
    asked = packed.index.recipe.get("quantization", {}).get("size")
    if asked is None:
        return
    taken = sum(file.stat().st_size for file in format.open(model, family).files(family) if file.is_file())
    if taken > size_in_bytes(asked):
        log.warning("%s: takes %d bytes, more than quantization.size asks for, %s", model, taken, asked)
