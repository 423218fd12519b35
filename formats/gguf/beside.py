"""The files of weights beside a GGUF model: the heads of classifiers, which it has no place for."""

from collections.abc import Mapping, Sequence

from epmq_export.grids import Grid
from epmq_export.models.classifiers import Classifier
from epmq_export.models.format import PlannedTensor
from epmq_export.models.heads_file import heads_file
from epmq_export.models.specs import GgufSpec
from epmq_export.tensors.packed import Packed, stored_bytes

# The bytes of a tensor's entry in a header besides its name.
_ENTRY = 65
# The names of the dtypes, by their bytes.
_KINDS = {2: "F16", 4: "F32"}


def files_beside(packed: Packed, spec: GgufSpec, heads: Sequence[Classifier]) -> dict[str, bytes]:
    """Return the files by name. Their tensors have the dtypes of the packed checkpoint."""
    return {
        name: heads_file(heads, {own: packed.load(tensor) for own, tensor in names.items()})
        for name, names in spec.beside_weights.items()
    }


def sizes_beside(tensors: Mapping[str, PlannedTensor], spec: GgufSpec) -> dict[str, dict[str, int]]:
    """Return the bytes of each file by type, as `Format.sizes` does."""
    found: dict[str, dict[str, int]] = {}
    for name, names in spec.beside_weights.items():
        sizes = {"rest": sum(len(own) + _ENTRY for own in names)}
        for tensor in (tensors[each] for each in names.values() if each in tensors):
            kind = (
                tensor.storage.name if isinstance(tensor.storage, Grid) else _KINDS[tensor.storage.itemsize]
            )
            sizes[kind] = sizes.get(kind, 0) + stored_bytes(tensor.shape, tensor.storage)
        found[name] = sizes
    return found
