"""The description of a model file that `inspect` shows: where it came from, its metadata, and each tensor's
type and size.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

PROVENANCE = ("recipe", "inputs", "method", "versions")
"""The keys under which this project's files say where they come from. GGUF and ONNX carry them as `epmq.*`,
in JSON.
"""


@dataclass(frozen=True)
class TensorDescription:
    """A tensor of a file, without its values."""

    name: str
    """The name that the file gives it."""

    type: str
    """The type as the file's format names it (`Q4_K`, `INT4`, `BF16`); in a packed checkpoint, the grid."""

    shape: tuple[int, ...]
    """The shape as in torch, slowest dimension first."""

    bytes: int
    """The bytes that its data take in the file, with the scales where they belong to the type."""

    @property
    def weights(self) -> int:
        """Return the number of weights."""
        return prod(self.shape)

    @property
    def bits_per_weight(self) -> float | None:
        """Return the bits that a weight takes, or None where there are no weights."""
        return 8 * self.bytes / self.weights if self.weights else None


@dataclass(frozen=True)
class Total:
    """The tensors, weights and bytes of several tensors together."""

    tensors: int
    """How many there are."""

    weights: int
    """Their weights together."""

    bytes: int
    """The bytes that their data take."""

    @classmethod
    def of(cls, tensors: Sequence[TensorDescription]) -> "Total":
        """Return the sums over some tensors."""
        return cls(
            len(tensors), sum(tensor.weights for tensor in tensors), sum(tensor.bytes for tensor in tensors)
        )

    @property
    def bits_per_weight(self) -> float | None:
        """Return the bits that a weight takes, or None where there are no weights."""
        return 8 * self.bytes / self.weights if self.weights else None


@dataclass(frozen=True)
class Description:
    """The content of a model file, without the values of its tensors."""

    kind: str
    """One of `gguf`, `onnx`, `safetensors`, `packed checkpoint`, `Hugging Face model` and `LoRA adapter`."""

    path: Path
    """What was inspected."""

    metadata: Mapping[str, Any]
    """What the file says beside its tensors, by key."""

    tensors: Sequence[TensorDescription]
    """The tensors in the file's order."""

    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What this project wrote about the file's origin: recipe, inputs, method, versions. Empty for files of
    others.
    """

    @property
    def total(self) -> Total:
        """Return the sums over all tensors."""
        return Total.of(self.tensors)

    @property
    def totals(self) -> dict[str, Total]:
        """Return the sums over the tensors of each type, by the name of the type, the largest first."""
        types = {tensor.type for tensor in self.tensors}
        totals = {
            kind: Total.of([tensor for tensor in self.tensors if tensor.type == kind]) for kind in types
        }
        return dict(sorted(totals.items(), key=lambda entry: (-entry[1].bytes, entry[0])))

    def as_dict(self) -> dict[str, Any]:
        """Return the whole description for JSON. A number that JSON does not have (NaN, infinities) becomes a
        string.
        """
        content = {
            "kind": self.kind,
            "path": str(self.path),
            "provenance": self.provenance,
            "metadata": self.metadata,
            "tensors": [
                {
                    "name": tensor.name,
                    "type": tensor.type,
                    "shape": tensor.shape,
                    "bytes": tensor.bytes,
                    "bits_per_weight": tensor.bits_per_weight,
                }
                for tensor in self.tensors
            ],
            "types": {kind: _total(total) for kind, total in self.totals.items()},
            "total": _total(self.total),
        }
        return {key: _plain(value) for key, value in content.items()}


def _total(total: Total) -> dict[str, int | float | None]:
    return {
        "tensors": total.tensors,
        "weights": total.weights,
        "bytes": total.bytes,
        "bits_per_weight": total.bits_per_weight,
    }


def _plain(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
