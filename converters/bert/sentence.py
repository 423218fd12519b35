"""What sentence-transformers makes of an encoder's tokens, as the files of a directory say it: pooling and
the modules behind it, the length and case of texts, and prompts.

    modules.json                        the modules, in their order, each with the folder of its config
    1_Pooling/config.json               what is pooled
    2_Dense/config.json                 a linear with an activation; its weights lie beside it
    sentence_bert_config.json           the length that texts are cut to, and whether they are lowered
    config_sentence_transformers.json   what is put before texts
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from epmq_export.errors import InputError
from epmq_export.files import read_json, read_json_list
from epmq_export.models.family import Prompts
from epmq_export.tensors.modules import DENSE, LENGTHS, MODULES, PROMPTS, is_cross_encoder

log = logging.getLogger(__name__)
# The modes by their old keys, in the order in which several are put one behind the other.
MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# The activations of a Dense that need no number.
ACTIVATIONS = ("Tanh", "Identity", "ReLU", "GELU", "Sigmoid", "SiLU", "Mish", "Softsign")
_ORDER = ("Transformer", "Pooling", DENSE, "Normalize")
# What a module is that changes nothing outside training.
_IDLE = ("Dropout",)


@dataclass(frozen=True)
class Dense:
    """A linear on the pooled row, with an activation."""

    place: str
    """The folder of its files, which stands before its tensors' names."""

    given: int
    made: int
    bias: bool
    activation: str
    """The name of the activation's class in torch.nn."""


@dataclass(frozen=True)
class Sentence:
    """What becomes of the tokens of a text."""

    modes: tuple[str, ...] = ("mean",)
    """What is pooled, one behind the other."""

    modules: str = "Transformer, Pooling"
    """The modules, in words."""

    dense: tuple[Dense, ...] = ()
    """What is behind the pooling."""

    unit: bool = False
    """Whether the outputs get length 1."""

    longest: int | None = None
    """The tokens that a text is cut to, special ones counted, where it is said."""

    lower: bool = False
    """Whether texts are lowered, whatever the tokenizer does."""

    prompts: Prompts = field(default_factory=Prompts)


def read_sentence(directory: Path) -> Sentence:
    """Return what a directory says of its texts; the mean of the tokens where it says nothing of pooling, or
    is a cross-encoder, which has none.

    Raises InputError for a module that is not known, and for a value that is none.
    """
    modules, unit, pooling = _modules(directory), False, directory / "1_Pooling"
    scores = is_cross_encoder(directory)
    if modules is not None and not scores:
        places = [path for kind, path in modules if kind == "Pooling"]
        if len(places) != 1:
            raise InputError(
                f"{directory / MODULES}: found {len(places)} modules of the type Pooling, expected one"
            )
        pooling, unit = directory / places[0], any(kind == "Normalize" for kind, _ in modules)
    behind = tuple(_dense(directory / path) for kind, path in modules or [] if kind == DENSE)
    longest, lower = _lengths(directory / LENGTHS)
    prompts = _prompts(directory / PROMPTS)
    path = pooling / "config.json"
    modes, included = (("mean",), True) if scores else _pooling(path, required=modules is not None)
    if not included and prompts.default:
        raise InputError(
            f"{path}: found include_prompt false beside the default prompt "
            f"{prompts.default!r}, expected true: no runtime leaves its tokens out"
        )
    known = "Transformer, Pooling" if modules is None or scores else ", ".join(_told(modules, behind))
    return Sentence(
        modes=modes, modules=known, dense=behind, unit=unit, longest=longest, lower=lower, prompts=prompts
    )


def _modules(directory: Path) -> list[tuple[str, str]] | None:
    """Return the type, without its package, and the path of each module, or None where nothing says them."""
    path = directory / MODULES
    if not path.is_file():
        return None
    entries = read_json_list(path)
    found = []
    for entry in entries:
        kind, place = (entry.get(key) if isinstance(entry, dict) else None for key in ("type", "path"))
        if not isinstance(kind, str) or not isinstance(place, str):
            raise InputError(f"{path}: found the module {entry!r:.80}, expected one with a type and a path")
        if (kind := kind.rpartition(".")[2]) not in _IDLE:
            found.append((kind, place))
    kinds = [kind for kind, _ in found]
    if kinds[:1] != ["Transformer"] or found[0][1] not in ("", "."):
        first = f"{found[0][0]} in {found[0][1]!r}" if found else "no module"
        raise InputError(f"{path}: found {first} first, expected Transformer in the directory itself")
    for kind in kinds[1:]:
        if kind not in ("Pooling", DENSE, "Normalize"):
            raise InputError(
                f"{path}: found a module {kind}, expected Transformer, Pooling, {DENSE} and Normalize"
            )
    if kinds != sorted(kinds, key=_ORDER.index):
        raise InputError(f"{path}: found the modules {', '.join(kinds)}, expected {', '.join(_ORDER)}")
    return found


def _dense(folder: Path) -> Dense:
    """Return what the config of a Dense says."""
    path = folder / "config.json"
    settings = read_json(path)
    given, made = (settings.get(key) for key in ("in_features", "out_features"))
    if not (isinstance(given, int) and isinstance(made, int) and given > 0 and made > 0):
        raise InputError(
            f"{path}: found in_features {given!r} and out_features {made!r}, expected two numbers above 0"
        )
    written = settings.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = str(written).rpartition(".")[2]
    if activation not in ACTIVATIONS or not str(written).startswith("torch.nn."):
        raise InputError(
            f"{path}: found activation_function {written!r}, expected one of torch.nn: "
            f"{', '.join(ACTIVATIONS)}"
        )
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, "sentence_embedding"):
            raise InputError(f"{path}: found {key} {settings[key]!r}, expected 'sentence_embedding'")
    bias = settings.get("bias", True) is not False
    return Dense(place=folder.name, given=given, made=made, bias=bias, activation=activation)


def _told(modules: Sequence[tuple[str, str]], dense: Sequence[Dense]) -> Iterator[str]:
    """Give the modules in words, each Dense with what it computes."""
    left = iter(dense)
    for kind, _ in modules:
        if kind != DENSE:
            yield kind
            continue
        found = next(left)
        bias = "" if found.bias else " without a bias"
        yield f"{DENSE} ({found.given} to {found.made}{bias}, {found.activation})"


def _pooling(path: Path, *, required: bool) -> tuple[tuple[str, ...], bool]:
    """Return the modes of a pooling, and whether it includes prompts."""
    if not path.is_file():
        if required:
            raise InputError(f"{path}: no such file, expected the pooling that {MODULES} names")
        # Classifiers, which read the first token, are not known here.
        where = path.parent.parent
        log.warning("%s: no 1_Pooling/config.json; taking mean pooling where texts are embedded", where)
        return ("mean",), True
    settings = read_json(path)
    given = settings.get("pooling_mode")
    if given is None:
        asked = [mode for key, mode in MODES.items() if settings.get(key) is True] or ["mean"]
    else:
        asked = given if isinstance(given, list) and given else [given]
    for mode in asked:
        if mode not in MODES.values():
            raise InputError(f"{path}: found pooling_mode {mode!r}, expected {' or '.join(MODES.values())}")
    return tuple(asked), settings.get("include_prompt", True) is not False


def _lengths(path: Path) -> tuple[int | None, bool]:
    settings: Mapping[str, Any] = read_json(path) if path.is_file() else {}
    longest = settings.get("max_seq_length")
    if longest is not None and not (isinstance(longest, int) and longest > 0):
        raise InputError(f"{path}: found max_seq_length {longest!r}, expected a number of tokens")
    lower = settings.get("do_lower_case", False)
    if lower not in (True, False, None):
        raise InputError(f"{path}: found do_lower_case {lower!r}, expected true or false")
    return longest, bool(lower)


def _prompts(path: Path) -> Prompts:
    settings: Mapping[str, Any] = read_json(path) if path.is_file() else {}
    named, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(named, dict) or not all(isinstance(text, str) for text in named.values()):
        raise InputError(f"{path}: found prompts {named!r:.80}, expected an object of texts")
    if default is not None and default not in named:
        raise InputError(
            f"{path}: found default_prompt_name {default!r}, expected one of the prompts: "
            f"{', '.join(named) or 'there is none'}"
        )
    return Prompts(default=named.get(default, ""), named={name: text for name, text in named.items() if text})
