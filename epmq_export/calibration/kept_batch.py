"""A batch of samples beside the activations that are computed from it."""

from collections.abc import Callable

from epmq_export.models.activations import Activations, Key
from epmq_export.models.family import Batch


class KeptBatch:
    """A batch whose tensors are kept with the activations, because pictures are as large as these."""

    def __init__(self, kept: Activations, key: Key, batch: Batch) -> None:
        self._kept, self._key, self._names = kept, key, tuple(batch)
        for name, value in batch.items():
            kept.put((*key, name), value)

    def get(self) -> Batch:
        """Return the batch."""
        return {name: self._kept.get((*self._key, name)) for name in self._names}

    def narrow(self, later: Callable[[Batch], Batch]) -> None:
        """Drop the tensors that later blocks do not read."""
        left = later(self.get())
        for name in self._names:
            if name not in left:
                self._kept.drop((*self._key, name))
        self._names = tuple(left)
