"""What `inspect` tells of a model file: where it came from, its metadata, and each tensor's type and size."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

PROVENANCE = ("recipe", "inputs", "method", "versions")
"""What this project's files say of where they come from; GGUF and ONNX carry them as `epmq.*`, in JSON."""


@dataclass(frozen=True)
class TensorDescription:
    name: str
    type: str
    """As the file's format calls it (`Q4_K`, `INT4`, `BF16`); in a packed checkpoint the grid."""

    shape: tuple[int, ...]
    """As in torch, slowest dimension first."""

    bytes: int
    """That its data take in the file, scales included where they belong to the type."""

    @property
    def weights(self) -> int:
        return prod(self.shape)

    @property
    def bits_per_weight(self) -> float | None:
        """None where there are no weights."""
        return 8 * self.bytes / self.weights if self.weights else None


@dataclass(frozen=True)
class Total:
    tensors: int
    weights: int
    bytes: int

    @classmethod
    def of(cls, tensors: Sequence[TensorDescription]) -> "Total":
        return cls(
            len(tensors), sum(tensor.weights for tensor in tensors), sum(tensor.bytes for tensor in tensors)
        )

    @property
    def bits_per_weight(self) -> float | None:
        return 8 * self.bytes / self.weights if self.weights else None


@dataclass(frozen=True)
class Description:
    kind: str
    """`gguf`, `onnx`, `safetensors`, `packed checkpoint`, `Hugging Face model` or `LoRA adapter`."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Sequence[TensorDescription]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """What this project wrote of a file's origin: recipe, inputs, method, versions. Empty for others'
    files.
    """

    @property
    def total(self) -> Total:
        return Total.of(self.tensors)

    @property
    def totals(self) -> dict[str, Total]:
        """By type, the largest first."""
        types = {tensor.type for tensor in self.tensors}
        totals = {
            kind: Total.of([tensor for tensor in self.tensors if tensor.type == kind]) for kind in types
        }
        return dict(sorted(totals.items(), key=lambda entry: (-entry[1].bytes, entry[0])))

    def as_dict(self) -> dict[str, Any]:
        """Everything, whole, for JSON; a number that JSON does not have (NaN, infinities) becomes a
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
