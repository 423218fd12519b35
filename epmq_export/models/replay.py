"""The outputs of a block's modules whose tensors are final. They are computed once, although the block runs
once for each of its steps.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from epmq_export.models.activations import Activations, Key
from epmq_export.models.family import Block


@dataclass
class _Made:
    """The output of one module as it was made in this pass."""

    path: str
    value: Any
    versions: list[int]


@dataclass
class Replay:
    """What the finished modules of a block have made of each batch. A module is finished when all steps with
    a member in it are solved; only the outermost finished ones are kept, and only as long as memory has room:
    what is not kept is computed again.
    """

    kept: Activations
    """Where the outputs lie. They are offered to it, so that they count in its bound."""

    block: Block
    module: nn.Module
    device: torch.device
    _last: dict[str, int] = field(init=False)
    """The index of the last step with a member in each module."""

    _forms: dict[tuple[str, int, int], tuple[bool, list[bool]]] = field(init=False, default_factory=dict)
    """For each output that is kept: whether it is a tuple, and which of its members are tensors."""

    _never: set[str] = field(init=False, default_factory=set)
    """Modules whose outputs cannot stand for a later pass: they run several times, make something else than
    tensors, or their output is changed in place.
    """

    def __post_init__(self) -> None:
        self._last = {}
        for index, step in enumerate(self.block.steps):
            for path in step:
                parts = path.split(".")
                self._last |= {".".join(parts[:end]): index for end in range(1, len(parts) + 1)}

    @contextmanager
    def before(self, step: int, t: int, b: int) -> Iterator[None]:
        """Let the block run for batch b of task t, in this context, with all steps before `step` finished."""
        made: list[_Made] = []
        given: list[_Made] = []
        ran: list[str] = []
        with _Patches() as patches:
            for path in self._outermost(step, t, b):
                submodule = self.module.get_submodule(path)
                if (path, t, b) in self._forms:
                    value = self._get(path, t, b)
                    given.append(_Made(path, value, _versions(value)))
                    patches.replace_forward(submodule, value)
                else:
                    patches.hook(submodule.register_forward_hook(self._recorder(path, made, ran)))
            for later in self.block.steps[step:]:
                for path in later:
                    hook = self.module.get_submodule(path).register_forward_hook(
                        lambda *arguments: ran.append("")
                    )
                    patches.hook(hook)
            yield
        for each in given:
            if _versions(each.value) != each.versions:
                self._forget(each.path, t, b)
                self._never.add(each.path)
        for each in made:
            self._keep(each, t, b)

    def drop(self, t: int, b: int) -> None:
        """Forget all outputs for a batch."""
        for path, *batch in [*self._forms]:
            if batch == [t, b]:
                self._forget(path, t, b)

    def _outermost(self, step: int, t: int, b: int) -> list[str]:
        """Return the paths of the finished modules whose outputs to use or to record, each before those
        within it. Beside one that is to be recorded there are those within it whose outputs are kept.
        """
        found: list[str] = []
        covered: dict[str, bool] = {}
        for path in sorted(self._last, key=lambda path: path.count(".")):
            if self._last[path] >= step or path in self._never:
                continue
            above = next((outer for outer in covered if path.startswith(f"{outer}.")), None)
            has = (path, t, b) in self._forms
            if above is None or (has and not covered[above]):
                found.append(path)
                covered[path] = has
        return found

    def _recorder(self, path: str, made: list[_Made], ran: list[str]) -> Callable[..., None]:
        def record(module: nn.Module, arguments: Any, output: Any) -> None:  # noqa: ANN401
            if path in ran:
                self._never.add(path)
            # What ran behind an unfinished module will change with it.
            if "" not in ran and _is_tensors(output):
                made.append(_Made(path, output, _versions(output)))
            ran.append(path)

        return record

    def _keep(self, made: _Made, t: int, b: int) -> None:
        if made.path in self._never or _versions(made.value) != made.versions:
            self._never.add(made.path)
            return
        whole = isinstance(made.value, Tensor)
        members: Sequence[Tensor | None] = [made.value] if whole else made.value
        keys = [self._key(made.path, t, b, i) for i in range(len(members))]
        for key, value in zip(keys, members, strict=True):
            if value is None:
                continue
            self.kept.offer(key, _own(value))
            if not self.kept.has(key):  # There is no room, or not for all of it.
                for other in keys:
                    self.kept.drop(other)
                return
        self._forms[made.path, t, b] = (not whole, [value is not None for value in members])
        for path in [path for path, *batch in self._forms if batch == [t, b]]:
            if path.startswith(f"{made.path}."):
                self._forget(path, t, b)

    def _get(self, path: str, t: int, b: int) -> Any:  # noqa: ANN401
        several, tensors = self._forms[path, t, b]
        members = [
            self.kept.get(self._key(path, t, b, i)).to(self.device) if tensor else None
            for i, tensor in enumerate(tensors)
        ]
        return tuple(members) if several else members[0]

    def _forget(self, path: str, t: int, b: int) -> None:
        _, tensors = self._forms.pop((path, t, b))
        for i in range(len(tensors)):
            self.kept.drop(self._key(path, t, b, i))

    def _key(self, path: str, t: int, b: int, i: int) -> Key:
        return ("made", path, t, b, i)


class _Patches:
    """Changes to modules that are taken back at the end of the context."""

    def __init__(self) -> None:
        self._modules: list[nn.Module] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> "_Patches":
        return self

    def __exit__(self, *error: object) -> None:
        for module in self._modules:
            del module.__dict__["forward"]
        for hook in self._hooks:
            hook.remove()

    def replace_forward(self, module: nn.Module, value: Any) -> None:  # noqa: ANN401
        module.__dict__["forward"] = lambda *arguments, **named: value
        self._modules.append(module)

    def hook(self, handle: Any) -> None:  # noqa: ANN401
        self._hooks.append(handle)


def _is_tensors(output: Any) -> bool:  # noqa: ANN401
    return isinstance(output, Tensor) or (
        type(output) is tuple and all(value is None or isinstance(value, Tensor) for value in output)
    )


def _versions(output: Any) -> list[int]:  # noqa: ANN401
    """Return a number for each tensor that rises whenever it is changed in place."""
    members = [output] if isinstance(output, Tensor) else output
    return [value._version for value in members if value is not None]


def _own(value: Tensor) -> Tensor:
    """Return a tensor with no more memory than its own."""
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()
