"""The record of a family for ONNX."""

from collections.abc import Mapping

from epmq_export.errors import InputError
from epmq_export.models.family import Family
from epmq_export.models.specs import OnnxExport, OnnxSpec

NAME = "onnx"


def specs_of(family: Family) -> Mapping[str, OnnxSpec]:
    """Return the family's models in ONNX, by the names of their files without ending. Tasks are judged by the
    first.

    Raises InputError where it has none.
    """
    found = family.exports.get(NAME)
    if not isinstance(found, OnnxExport):
        raise InputError(
            f"{family.directory}: found the family {family.name}, which no runtime reads as ONNX, expected "
            f"{' or '.join(family.exports)}"
        )
    return found.specs()
