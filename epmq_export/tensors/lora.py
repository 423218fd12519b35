"""A PEFT LoRA adapter on a base: W + scale * B @ A, computed in float32 when a tensor is asked for.

The files are those of `peft`: adapter_config.json, and adapter_model.safetensors with
`base_model.model.MODULE.lora_A.weight` [r, in], `.lora_B.weight` [out, r], `.lora_embedding_A` [r, rows] and
`.lora_embedding_B` [width, r] for embeddings, `.lora_B.bias` [out], and whole tensors (biases,
modules_to_save) that take the place of those of the base.
"""

import logging
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.tensors.directory import ADAPTER_CONFIG, ADAPTER_PICKLE, ADAPTER_WEIGHTS, pickle_refusal
from epmq_export.tensors.orientation import Orientation
from epmq_export.tensors.safetensors_file import SafetensorsFile
from epmq_export.tensors.source import TypedSource

log = logging.getLogger(__name__)

# The keys of a configuration. Those in _USED decide the result. Those in _UNUSED served the training, or only
# inform. Those in _REFUSED, when switched on, make the adapter something else than W + scale * B @ A, or
# change the base first.
_USED = {
    "peft_type",
    "r",
    "lora_alpha",
    "use_rslora",
    "alpha_pattern",
    "rank_pattern",
    "init_lora_weights",
}
_UNUSED = {
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *(
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "modules_to_save",
        "bias",
        "lora_bias",
    ),
    *(
        "lora_dropout",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "qalora_group_size",
        "runtime_config",
    ),
    *("megatron_config", "megatron_core"),
    "fan_in_fan_out",  # The module's own kind decides, as in peft.
}
_REFUSED = {
    "use_dora": "DoRA rescales every row by a norm",
    "use_qalora": "QA-LoRA pools its inputs",
    "use_bdlora": "its matrices are block-diagonal",
    "kasa_config": "KaSA scales by learnt singular values",
    "velora_config": "VeLoRA changes the projection",
    "monteclora_config": "its matrices are random",
    "arrow_config": "it routes among adapters",
    "alora_invocation_tokens": "it is active after certain tokens only",
    "trainable_token_indices": "single rows of an embedding are replaced",
    "layer_replication": "layers are repeated",
    "target_parameters": "it targets bare parameters",
    "ensure_weight_tying": "tied weights share one adapter",
}
_INITS = (True, False, "gaussian", "orthogonal", "eva")
_PREFIX = "base_model.model."
_FACTORS = {
    ".lora_A.weight": ("a", ".weight"),
    ".lora_B.weight": ("b", ".weight"),
    ".lora_B.bias": ("shift", ".bias"),
    ".lora_embedding_A": ("embedding_a", ".weight"),
    ".lora_embedding_B": ("embedding_b", ".weight"),
}


def is_adapter(directory: Path) -> bool:
    """Return whether a directory holds a LoRA adapter, or what is left of one."""
    return any((directory / name).exists() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADAPTER_PICKLE))


@dataclass(frozen=True)
class _Delta:
    """The change of one tensor of the base: the keys of the factors in the adapter's file, by role, and the
    scale.
    """

    keys: dict[str, str]
    scale: float


class Lora:
    """The tensors of a base with the changes of an adapter. Changed tensors are float32, whatever the dtype
    of the base, so that nothing is rounded away.
    """

    def __init__(self, directory: Path, base: TypedSource) -> None:
        if (directory / ADAPTER_PICKLE).exists() and not (directory / ADAPTER_WEIGHTS).exists():
            raise InputError(f"{directory}: {pickle_refusal(ADAPTER_PICKLE)}")
        self._path = directory / ADAPTER_CONFIG
        self._config = read_json(self._path)
        _check(self._path, self._config)
        self._base, self._file = base, SafetensorsFile(directory / ADAPTER_WEIGHTS)
        self._orientation = Orientation(base)
        factors, whole = self._sort()
        rename = self._names_of_base([module + suffix for module, suffix in factors])
        # A tensor that is stored whole may be one that the base has not, such as the head of a classifier.
        self._whole = {rename(name): key for name, key in whole.items()}
        self._deltas = {}
        for (module, suffix), keys in factors.items():
            own = factors.get((module, ".weight"), {})
            if "a" not in own and "embedding_a" not in own:
                raise InputError(
                    f"{self._file.path}: module {module} has only {', '.join(keys.values())}, expected an "
                    "A and a B"
                )
            self._deltas[rename(module + suffix)] = self._delta(
                module, keys, own.get("a") or own["embedding_a"]
            )
        self._names = sorted({*base.names(), *self._whole})
        for name in self._deltas:
            self._check_shapes(name)

    def names(self) -> list[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file.shape(self._whole[name]) if name in self._whole else self._base.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        if name in self._deltas:
            return torch.float32
        return self._file.dtype(self._whole[name]) if name in self._whole else self._base.dtype(name)

    def load(self, name: str) -> Tensor:
        tensor = self._file.load(self._whole[name]) if name in self._whole else self._base.load(name)
        if name not in self._deltas:
            return tensor
        delta = self._deltas[name]
        part = {role: self._file.load(key).float() for role, key in delta.keys.items()}
        if "shift" in part:
            change = part["shift"]
        elif "a" in part:
            change = part["b"] @ part["a"]
            change = change.T if self._orientation.turned(name) else change
        else:
            change = (part["embedding_b"] @ part["embedding_a"]).T
        return tensor.float() + delta.scale * change

    def _sort(self) -> tuple[dict[tuple[str, str], dict[str, str]], dict[str, str]]:
        """Return the keys of the file in two parts: factors by (module, suffix of the tensor that they
        change), and whole tensors by name.
        """
        factors: dict[tuple[str, str], dict[str, str]] = {}
        whole: dict[str, str] = {}
        for key in self._file.names():
            name = key.removeprefix(_PREFIX)
            ending = next((ending for ending in _FACTORS if name.endswith(ending)), None)
            if ending is not None:
                role, suffix = _FACTORS[ending]
                factors.setdefault((name.removesuffix(ending), suffix), {})[role] = key
            elif "lora_" in name:
                raise InputError(
                    f"{self._file.path}: tensor {key} is none that a LoRA adapter has, expected names "
                    f"that end in {', '.join(_FACTORS)}"
                )
            else:
                whole[name.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = key
        if not factors and not whole:
            raise InputError(f"{self._file.path}: holds no tensors")
        pairs = ({"a", "b"}, {"embedding_a", "embedding_b"}, {"shift"})
        for (module, _), keys in factors.items():
            if set(keys) not in pairs:
                raise InputError(
                    f"{self._file.path}: module {module} has only {', '.join(sorted(keys.values()))}, "
                    "expected an A and a B"
                )
        return factors, whole

    def _names_of_base(self, targets: list[str]) -> "_Rename":
        """Return the renaming of the adapter's names to those of the base: none, or without a first part
        (`bert.`), or with one more.
        """
        known = set(self._base.names())
        firsts = sorted({name.partition(".")[0] + "." for name in (*targets, *known)})
        candidates = [
            _Rename(),
            *(_Rename(drop=first) for first in firsts),
            *(_Rename(add=first, known=frozenset(known)) for first in firsts),
        ]
        for rename in candidates:
            if all(rename(name) in known for name in targets):
                return rename
        missing = sorted(name for name in targets if name not in known)
        raise InputError(
            f"{self._file.path}: the adapter changes {missing[0]}, which the base has not ({len(missing)} "
            "such): it was trained on another model"
        )

    def _delta(self, module: str, keys: dict[str, str], factor: str) -> _Delta:
        """Return the change of a tensor. `factor` is the key of the module's A, whose first axis is the
        rank.
        """
        stored = (self._file.shape(factor) or (0,))[0]
        ranks, alphas = (
            self._numbers("r", "rank_pattern", module),
            self._numbers("lora_alpha", "alpha_pattern", module),
        )
        if stored not in ranks or stored < 1:
            raise InputError(
                f"{self._file.path}: {factor} has rank {stored}, {ADAPTER_CONFIG} says {ranks[0]:g}"
            )
        if len(set(alphas)) > 1:
            log.warning(
                "%s: alpha_pattern has %s for %s; taking the first in the file, as peft does",
                self._path,
                alphas,
                module,
            )
        return _Delta(keys, alphas[0] / (math.sqrt(stored) if self._config.get("use_rslora") else stored))

    def _numbers(self, key: str, pattern_key: str, module: str) -> list[float]:
        """Return the values of the patterns that match the end of a module's name, or the adapter's own value
        where none does.

        peft trains with the first pattern that matches, but saves the patterns sorted. Where several match,
        only the stored rank tells which of them it was.
        """
        patterns = self._config.get(pattern_key) or {}
        if not isinstance(patterns, dict):
            raise InputError(
                f"{self._path}: {pattern_key} is a {type(patterns).__name__}, expected an object"
            )
        values = [value for pattern, value in patterns.items() if self._fits(pattern_key, pattern, module)]
        values = values or [self._config.get(key, 8)]  # peft's default for both keys is 8.
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"{self._path}: {key} of {module} is {value!r}, expected a number")
        return values

    def _fits(self, pattern_key: str, pattern: str, module: str) -> bool:
        try:
            return re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module) is not None
        except re.error as error:
            raise InputError(
                f"{self._path}: {pattern_key} {pattern!r} is no regular expression ({error})"
            ) from None

    def _check_shapes(self, name: str) -> None:
        shape = {role: self._file.shape(key) for role, key in self._deltas[name].keys.items()}
        if "shift" in shape:
            expected = shape["shift"]
        else:
            a, b = (shape["a"], shape["b"]) if "a" in shape else (shape["embedding_a"], shape["embedding_b"])
            if len(a) != 2 or len(b) != 2 or a[0] != b[1]:
                raise InputError(
                    f"{self._file.path}: the factors of {name} are of shapes {a} and {b}, expected [r, "
                    "in] and [out, r]"
                )
            turned = "embedding_a" in shape or self._orientation.turned(name)
            expected = (a[1], b[0]) if turned else (b[0], a[1])
        if self.shape(name) != expected:
            raise InputError(
                f"{self._file.path}: the adapter's change of {name} is of shape {expected}, the base's is "
                f"{self.shape(name)}: another model"
            )


@dataclass(frozen=True)
class _Rename:
    """A renaming: it drops a first part, or adds one where the longer name is known."""

    drop: str = ""
    add: str = ""
    known: frozenset[str] = frozenset()

    def __call__(self, name: str) -> str:
        if self.add:
            return self.add + name if self.add + name in self.known else name
        return name.removeprefix(self.drop)


def _check(path: Path, config: dict[str, Any]) -> None:
    """Raise InputError for a configuration that is not plain LoRA, or that has a setting not known here."""
    if config.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {config.get('peft_type')!r}, expected 'LORA'")
    for key, reason in _REFUSED.items():
        if config.get(key):
            raise InputError(f"{path}: {key} is set, but only plain LoRA can be merged: {reason}")
    for key, value in config.items():
        if key not in _USED | _UNUSED | set(_REFUSED) and value:
            raise InputError(
                f"{path}: {key} is {value!r}, a setting that this version does not know, so what it "
                "changes is unknown"
            )
    init = config.get("init_lora_weights", True)
    if init not in _INITS:
        raise InputError(
            f"{path}: init_lora_weights is {init!r}, which changes the base's weights; convert the "
            "adapter to plain LoRA with peft first"
        )
