"""What a kind of model calls its tensors, and what wrappers put before their names.

This is known without opening the model, so that a merge and a calibration read names in the same way.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

# What training wrappers put into a name at any place, and before all names. No model has a module called so.
_INSIDE = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# TensorFlow's names of the weight and bias of a norm, which old checkpoints have and the library still reads.
_OLD_NORM = re.compile(r"(?<=LayerNorm\.)(gamma|beta)$")
_BEFORE = ("module.", "base_model.model.", "0.auto_model.", "0.model.", "auto_model.", "state_dict.")
# What may be a wrapper's or a model's own: it is a wrapper's where the model is none of a known family as
# long as it stands there.
_PERHAPS = ("model.", "_model.", "net.", "network.", "backbone.", "transformer.", "encoder.")


@dataclass(frozen=True)
class Ties:
    """The head of a language model whose weight may be that of its token embeddings."""

    head: str
    embeddings: Sequence[str]
    """The names that the embeddings may have; a model has the first of them that it stores."""

    tied: bool
    """Whether the config says so."""

    splits: bool
    """Whether the config can also say that they are two."""

    def pair(self, stored: Mapping[str, str]) -> tuple[str | None, str | None]:
        """Return the own names of a model's head and of its embeddings, out of those by plain name; None for
        what it does not store.
        """
        table = next((name for name in self.embeddings if name in stored), "")
        return stored.get(self.head), stored.get(table)


@dataclass(frozen=True)
class Naming:
    """The names of a kind of model. Without any arguments, those of a model of no known family."""

    plain: Callable[[str], str] = str
    """A function that returns the one name of a tensor that may be stored under several."""

    needed: Callable[[str], bool] | None = None
    """A function that tells whether the model without its heads has a tensor, by its plain name; None where
    it is not known, and all are needed.
    """

    ties: Ties | None = None

    classifier: Mapping[str, str] | None = None
    """The plain names of the tensors of a fine-tune's own classifier, by their canonical names within its
    head. None where fine-tunes have none that is known.
    """

    stacks: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The matrices of an expert of a mixture, by the ending of the name of a tensor that may hold those of
    all experts of a layer (stacked.py).
    """

    def needs(self, plain: str) -> bool:
        """Return whether every model of the kind must have a tensor, by its plain name."""
        return not is_buffer(plain) and (self.needed is None or self.needed(plain))

    def canonical(self, name: str) -> str | None:
        """Return the plain name of a tensor, or None where the model without its heads has it not."""
        plain = self.plain(name)
        return plain if self.needs(plain) else None


def is_buffer(name: str) -> bool:
    """Return whether a tensor is one that old versions of the library stored, and that is no weight."""
    return name.endswith(
        (
            "position_ids",
            "rotary_emb.inv_freq",
            "rotary_pos_emb.inv_freq",
            "attn.masked_bias",
            ".num_batches_tracked",
        )
    )


def unwrapped(names: Iterable[str], naming: Naming) -> dict[str, str]:
    """Return the names of a model's tensors without what wrappers have put before or into them, and norms'
    by their names of today, by the names as they are stored.
    """
    found = {name: _OLD_NORM.sub(_new_norm, _INSIDE.sub("", name)) for name in names}
    for _ in range(len(_BEFORE)):
        first = next((each for each in _BEFORE if _all_begin(found.values(), each)), None)
        first = first or _wrapper(found.values(), naming)
        if first is None:
            break
        found = {name: short.removeprefix(first) for name, short in found.items()}
    return found


def _new_norm(found: re.Match[str]) -> str:
    return {"gamma": "weight", "beta": "bias"}[found[1]]


def _all_begin(names: Iterable[str], first: str) -> bool:
    return all(name.startswith(first) for name in names)


def _wrapper(names: Iterable[str], naming: Naming) -> str | None:
    """Return the first part of names without which they are those of the known family; None where they are
    so already, and where there are several.
    """
    if naming.needed is None or any(naming.needs(naming.plain(name)) for name in names):
        return None
    found = [
        first
        for first in (*_BEFORE, *_PERHAPS)
        if any(name.startswith(first) and naming.needs(naming.plain(name[len(first) :])) for name in names)
    ]
    return found[0] if len(found) == 1 else None
