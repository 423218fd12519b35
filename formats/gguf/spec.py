"""What a family says of itself in GGUF."""

from epmq_export.errors import InputError
from epmq_export.models.family import Family
from epmq_export.models.specs import GgufExport, GgufSpec

NAME = "gguf"


def spec_of(family: Family) -> GgufSpec:
    """Return the family's layout in GGUF; InputError where it has none, or its runtimes cannot read this
    model.
    """
    return export_of(family).spec()


def export_of(family: Family) -> GgufExport:
    """Return what the family is in GGUF; InputError where it is nothing there."""
    found = family.exports.get(NAME)
    if not isinstance(found, GgufExport):
        raise InputError(
            f"{family.directory}: found the family {family.name}, which no runtime reads as GGUF, expected "
            f"{' or '.join(family.exports)}"
        )
    return found
