"""A block as the file will hold it, tensor by tensor, and the student that computes with it."""

import logging

import torch
from torch import Tensor, nn

from epmq_export.calibration.calibrator import Calibrator
from epmq_export.calibration.storage import StorageOf
from epmq_export.errors import CalibrationError
from epmq_export.grids.layout import Storage
from epmq_export.models.family import Block
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.tensors.packed import PackedTensor, dequantised

log = logging.getLogger(__name__)


class ShippedBlock:
    """The tensors of one block that are final, by name, and its student. Paths are those within the block."""

    def __init__(self, calibrator: Calibrator, storage: StorageOf, block: Block, student: nn.Module) -> None:
        self.student = student
        self.tensors: dict[str, PackedTensor | Tensor] = {}
        self.notes: list[str] = []
        self._c, self._storage, self._prefix = calibrator, storage, block.prefix

    def name(self, path: str) -> str:
        """Return the name of what is at a path, in the model."""
        return f"{self._prefix}{path}"

    def weight(self, path: str) -> str:
        """Return the name of a module's weight."""
        return self.name(f"{path}.weight")

    def shape(self, path: str) -> tuple[int, ...]:
        """Return the shape of a module's weight."""
        return tuple(self.student.get_parameter(f"{path}.weight").shape)

    def storage(self, path: str, shape: tuple[int, ...]) -> Storage:
        """Return how a tensor is stored. Keep the note about it, and log it once for each kind."""
        storage, note = self._storage(self.name(path), shape)
        if note is not None:
            kind = note.partition(" ")[2]
            # A calibration with `measure` is a rehearsal, whose layout is not the one that ships.
            if self._c.measure is None and kind not in self._c.told:
                self._c.told.add(kind)
                log.warning("%s (said once: the report has every tensor)", note)
            self.notes.append(note)
        return storage

    def ship(self, path: str, value: PackedTensor | Tensor) -> None:
        """Keep a tensor as the file will hold it, and let the student compute with it from now on.

        Raises CalibrationError where a number is not finite.
        """
        name = self.name(path)
        module = self.student.get_submodule(path.rpartition(".")[0])
        if isinstance(module, RmsNorm) and isinstance(value, Tensor):
            value = module.whole(value)
        if not isinstance(value, PackedTensor) and not bool(torch.isfinite(value).all()):
            raise CalibrationError(
                f"{name}: its values are not finite as {value.dtype}; look for NaN, Inf or overflow in "
                "the checkpoints"
            )
        self.tensors[name] = value
        self.student.get_parameter(path).data = dequantised(value).to(self._c.device, torch.float32)
