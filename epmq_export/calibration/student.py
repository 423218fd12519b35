"""The whole calibrated model as `refine` trains it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from epmq_export.calibration.on_grid import OnGrid
from epmq_export.models.blocks import load_block, paths
from epmq_export.models.family import Block, Family
from epmq_export.models.precision import AttentionInFloat32, fast_bfloat16
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.tensors.packed import PackedTensor
from epmq_export.tensors.source import TensorSource

Tensors = dict[str, PackedTensor | Tensor]
HELD = 2 << 30
"""The bytes of a model's weights, in float32, that are held in memory where biases and norms alone are
trained. Of a larger model one block is held at a time.
"""


class Calibrated(TensorSource, Protocol):
    """A calibrated model: as a source it gives the values that the file ships."""

    def tensor(self, name: str) -> PackedTensor | Tensor:
        """Return a tensor as it is stored, on its grid or plain."""
        ...


class Student:
    """A calibrated model with the parameters that are trained: biases and norms, and the linears on their
    grids where `weights` says so.

    Where biases and norms alone are trained and the model is larger than `HELD`, a block's weights are loaded
    when it runs, forward and once more for its gradients, and dropped behind it (Chen et al., arXiv
    1604.06174): the same numbers, in the memory of one block.
    """

    def __init__(self, family: Family, source: Calibrated, weights: bool, device: torch.device) -> None:
        self._family, self._source, self._device = family, source, device
        self._modules: dict[str, nn.Module] = {}
        self._linears: list[tuple[str, nn.Module]] = []
        self._affine: dict[str, nn.Parameter] = {}
        self._norms: dict[str, RmsNorm] = {}
        held = weights or bytes_held(family) <= HELD
        for block in family.blocks:
            module = load_block(block, source, device).requires_grad_(False)
            for path in paths(block):
                self._find(module.get_submodule(path), f"{block.prefix}{path}", weights)
            if held:
                self._modules[block.name] = module
        for parameter in self.parameters():
            parameter.requires_grad_(True)

    def _find(self, module: nn.Module, name: str, weights: bool) -> None:
        """Keep what is trained of a linear or norm."""
        for key, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 1:
                self._affine[f"{name}.{key}"] = parameter
                if isinstance(module, RmsNorm):
                    self._norms[f"{name}.{key}"] = module
        value = self._source.tensor(f"{name}.weight") if weights else None
        if isinstance(value, PackedTensor):
            on_grid = OnGrid(value.to(self._device))
            parametrize.register_parametrization(module, "weight", on_grid, unsafe=True)
            self._linears.append((f"{name}.weight", module))

    def output(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the outputs of a batch, float32 [batch, width]."""
        hidden: Tensor | None = None
        batch = {key: value.to(self._device, non_blocking=True) for key, value in batch.items()}
        bfloat16 = torch.autocast(self._device.type, torch.bfloat16, enabled=fast_bfloat16(self._device))
        with bfloat16, self._attention():
            for block in self._family.blocks:
                if (module := self._modules.get(block.name)) is not None:
                    hidden = block.run(module, hidden, batch)
                else:
                    # The gradients' pass stands outside of these contexts; it enters that of autocast itself.
                    again = lambda: (nullcontext(), self._attention())  # noqa: E731
                    run = partial(self._run, block, batch=batch)
                    hidden = checkpoint(
                        run, hidden, use_reentrant=False, preserve_rng_state=False, context_fn=again
                    )
        assert hidden is not None
        return self._family.output(hidden.float(), batch)

    def _run(self, block: Block, hidden: Tensor | None, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the next hidden state, computed by a module that is loaded for it."""
        module = load_block(block, self._source, self._device).requires_grad_(False)
        for path in paths(block):
            inner = module.get_submodule(path)
            for key, _ in [*inner.named_parameters(recurse=False)]:
                if (trained := self._affine.get(f"{block.prefix}{path}.{key}")) is not None:
                    setattr(inner, key, trained)
        return block.run(module, hidden, batch)

    def _attention(self) -> AbstractContextManager[object]:
        """Return a context in which attention has the same gradients at every run, where the faster kernels
        of a GPU add them up in any order, and has them soon, where a processor's own for bfloat16 are slow.
        """
        return sdpa_kernel(SDPBackend.MATH) if self._device.type == "cuda" else AttentionInFloat32()

    def parameters(self) -> list[nn.Parameter]:
        """Return all parameters that are trained."""
        return [parameter for group in self.groups(0.0) for parameter in group["params"]]

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Return the parameters in the three groups of the optimiser: latent weights, steps and offsets,
        biases and norms.
        """
        grids = [_parametrization(module) for _, module in self._linears]
        return [
            {"params": [latent for latent, _ in grids], "lr": rate},
            {
                "params": [
                    parameter
                    for _, grid in grids
                    for parameter in grid.parameters()
                    if parameter.requires_grad
                ],
                "lr": rate / 10,
            },
            {"params": [*self._affine.values()], "lr": rate * 3},
        ]

    def state(self) -> list[Tensor]:
        """Return copies of the parameters as they are now."""
        return [parameter.detach().clone() for parameter in self.parameters()]

    def restore(self, state: Sequence[Tensor]) -> None:
        """Go back to what `state` has returned."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), state, strict=True):
                parameter.copy_(value)

    def tensors(self) -> Tensors:
        """Return copies of the trained tensors as they are now, in memory, on their grids; norms as a file
        holds them that adds to their weights.
        """
        found: Tensors = {}
        for name, parameter in self._affine.items():
            value = parameter.detach().clone()
            found[name] = self._norms[name].whole(value) if name in self._norms else value
        for name, module in self._linears:
            latent, grid = _parametrization(module)
            found[name] = grid.packed(latent)
        return {name: value.to("cpu") for name, value in found.items()}


def bytes_held(family: Family) -> int:
    """Return the bytes of the weights of all blocks in float32."""
    return sum(4 * value.numel() for block in family.blocks for value in block.build().state_dict().values())


def _parametrization(module: nn.Module) -> tuple[nn.Parameter, OnGrid]:
    found: Any = module.parametrizations
    return found.weight.original, found.weight[0]
