"""How a model stores the weights of its linears: as [out, in], or as [in, out], as GPT-2's Conv1D does."""

from epmq_export.tensors.source import TypedSource

# The modules that GPT-2 and its like make of Conv1D. Other models have linears of these names, so that only
# the shapes of a model's own tensors tell.
_CONV1D = frozenset({"c_attn", "c_fc", "c_proj", "q_attn"})


class Orientation:
    """Whether a model's weights are [in, out]. Only shapes are read."""

    def __init__(self, model: TypedSource) -> None:
        self._model, self._known = model, frozenset(model.names())
        self._has_conv1d = any(self._is_turned(name) for name in self._known if _module(name) in _CONV1D)

    def turned(self, weight: str) -> bool:
        """Return whether a matrix of the model is [in, out].

        The model's own tensors say it, and no setting: the bias of a linear is as long as it has outputs. A
        square matrix is taken as the others of its kind are.
        """
        shape = self._model.shape(weight)
        if len(set(shape)) > 1 and self._bias(weight) is not None:
            return self._is_turned(weight)
        return self._has_conv1d and _module(weight) in _CONV1D

    def _is_turned(self, weight: str) -> bool:
        shape, bias = self._model.shape(weight), self._bias(weight)
        return bias is not None and len(shape) == 2 and shape[0] != shape[1] == bias

    def _bias(self, weight: str) -> int | None:
        """Return the length of the bias beside a weight, or None where there is none."""
        name = weight.removesuffix("weight") + "bias"
        if not weight.endswith(".weight") or name not in self._known:
            return None
        shape = self._model.shape(name)
        return shape[0] if len(shape) == 1 else None


def _module(tensor: str) -> str:
    return tensor.removesuffix(".weight").rpartition(".")[2]
