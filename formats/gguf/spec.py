"""The record of a family for GGUF."""

from epmq_export.errors import InputError
from epmq_export.models.family import Family
from epmq_export.models.specs import GgufExport, GgufSpec

NAME = "gguf"


def spec_of(family: Family) -> GgufSpec:
    """Return the family's layout in GGUF. Raises InputError where it has none, or its runtimes cannot read
    this model.
    """
    return export_of(family).spec()


def export_of(family: Family) -> GgufExport:
    """Return the family's record for GGUF. Raises InputError where it has none."""
    found = family.exports.get(NAME)
    if not isinstance(found, GgufExport):
        raise InputError(
            f"{family.directory}: found the family {family.name}, which no runtime reads as GGUF, expected "
            f"{' or '.join(family.exports)}"
        )
    return found
