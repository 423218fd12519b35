"""The running of one block of a family, and the inputs of its linears and norms."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from epmq_export.errors import InputError
from epmq_export.models.family import Batch, Block, Family
from epmq_export.models.mixture import place_of
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.tensors.source import TensorSource


class _Seen(Exception):
    """The end of a forward pass whose last wanted input is known."""


def paths(block: Block) -> list[str]:
    """Return the paths of the block's linears and norms that are calibrated, in the order of the data."""
    return [path for step in block.steps for path in step]


def linears(family: Family) -> list[str]:
    """Return the names of the weights of the linears that the family's blocks name, in the order of the data.
    Calibration puts these on grids.
    """
    return [
        f"{block.prefix}{path}.weight"
        for block, module in ((block, block.build()) for block in family.blocks)
        for path in paths(block)
        if isinstance(module.get_submodule(path), nn.Linear)
    ]


def alike(family: Family) -> dict[str, list[str]]:
    """Return the names of the weights that share one storage, by the name of their first. One linear of all
    experts of a mixture does, because files hold it as one tensor.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for block, module in ((block, block.build()) for block in family.blocks):
        for path in paths(block):
            if (place := place_of(module, path)) is not None:
                key = (block.prefix, place.mixture, place.path)
                found.setdefault(key, []).append(f"{block.prefix}{path}.weight")
    return {names[0]: names for names in found.values()}


def load_block(block: Block, source: TensorSource, device: torch.device) -> nn.Module:
    """Return the block's module with the source's weights in float32. Raises InputError where a shape is not
    the config's.
    """
    return load_module(block.build(), block.prefix, source, device)


def load_module(module: nn.Module, prefix: str, source: TensorSource, device: torch.device) -> nn.Module:
    """Return a module with the source's weights in float32, whose names begin with `prefix` there. Raises
    InputError where a shape is not the config's.
    """
    state = {}
    for path, empty in module.state_dict().items():
        name = f"{prefix}{path}"
        value = source.load(name)
        if value.shape != empty.shape:
            raise InputError(
                f"tensor {name} has shape {list(value.shape)}, expected {list(empty.shape)} by config.json"
            )
        state[path] = value.to(device).to(torch.float32)  # In this order the copy has the file's bytes.
    module.load_state_dict(state, assign=True)
    return module


@torch.no_grad()
def run_block(
    block: Block, module: nn.Module, hidden: Tensor | None, batch: Batch, device: torch.device
) -> Tensor:
    """Return the next hidden state, on the device."""
    return block.run(
        module,
        None if hidden is None else hidden.to(device, non_blocking=True),
        {key: value.to(device, non_blocking=True) for key, value in batch.items()},
    )


@torch.no_grad()
def inputs_of(
    module: nn.Module, paths: Sequence[str], run: Callable[[], Tensor], stop: bool
) -> tuple[list[Tensor], Tensor | None]:
    """Return the inputs of the submodules at `paths` while `run()` runs, and its result, which is None where
    `stop` ended it at the last of them.

    Paths are in the order of the data. The input of a norm is given as the norm scales it: normalised, before
    its affine part.
    """
    seen: list[Tensor] = []

    def hook(submodule: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        value = arguments[0]
        if isinstance(submodule, nn.LayerNorm):
            value = nn.functional.layer_norm(value, submodule.normalized_shape, eps=submodule.eps)
        elif isinstance(submodule, RmsNorm):
            value = submodule.normalised(value)
        seen.append(value)
        if stop and len(seen) == len(paths):
            raise _Seen

    handles = [module.get_submodule(path).register_forward_pre_hook(hook) for path in paths]
    try:
        return seen, run()
    except _Seen:
        return seen, None
    finally:
        for handle in handles:
            handle.remove()
