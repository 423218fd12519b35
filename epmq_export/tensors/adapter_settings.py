"""What adapter_config.json says of a LoRA adapter."""

import logging
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.tensors.directory import ADAPTER_CONFIG

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
    "auto_mapping",
    "base_model_name_or_path",
    "target_modules",
    "target_parameters",
    "layers_to_transform",
    "ensure_weight_tying",
}
_UNUSED = {
    *("task_type", "peft_version", "revision", "inference_mode"),
    *("exclude_modules", "layers_pattern", "modules_to_save", "bias", "lora_bias"),
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
}
_WAY_OUT = "where peft merges it (merge_and_unload), give the whole model that this makes as the expert"
# No rank and no scale is as large. Larger ones do not fit a float.
_MOST = 1e30
# The time of a match grows with a power of a name's length, one more for each part that is repeated, and
# without bound where a repeated group holds such parts.
_REPEATS, _REPEATED, _NESTED = 4, re.compile(r"[*+{]"), re.compile(r"\)[*+{]")
_WEIGHT = ".weight"
_INITS = (True, False, "gaussian", "orthogonal", "eva")


class AdapterSettings:
    """The settings of an adapter. Raises InputError for a configuration that is not plain LoRA, or that has a
    setting not known here.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._config = path, read_json(path)
        _check(path, self._config)

    @property
    def trained_on(self) -> str:
        """Return the class that the adapter was trained on; nothing where it does not say."""
        found = self._config.get("auto_mapping")
        name = found.get("base_model_class") if isinstance(found, dict) else None
        return name if isinstance(name, str) else ""

    @property
    def base(self) -> str:
        """Return where the model lay that the adapter was trained on; nothing where it does not say."""
        found = self._config.get("base_model_name_or_path")
        return found if isinstance(found, str) else ""

    @property
    def bare(self) -> list[str]:
        """Return the tensors that it targets and that are no module's weight."""
        return [name for name in self._parameters if not name.endswith(_WEIGHT)]

    @property
    def _parameters(self) -> list[str]:
        found = self._config.get("target_parameters") or []
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise InputError(f"{self.path}: found target_parameters {found!r:.60}, expected a list of names")
        return found

    @property
    def keeps_ties(self) -> bool:
        """Return whether what changes one of two tied tensors changes the other, too."""
        return bool(self._config.get("ensure_weight_tying"))

    def picks(self, module: str) -> bool:
        """Return whether a module is certainly one that the adapter was to change: its name ends as one in
        the list of target modules, which is for all layers.
        """
        ends = self._config.get("target_modules")
        if not isinstance(ends, list) or self._config.get("layers_to_transform") is not None:
            return False
        return any(module == end or module.endswith(f".{end}") for end in ends)

    def scale(self, module: str, rank: int, factor: str) -> float:
        """Return what B @ A is multiplied by. `factor` names the tensor that has the rank."""
        weight = f".{module}{_WEIGHT}"
        if any(weight.endswith(f".{name}") for name in self._parameters):
            module += _WEIGHT  # The patterns of a tensor that is targeted by its own name are of that.
        ranks = self._numbers("r", "rank_pattern", module)
        alphas = self._numbers("lora_alpha", "alpha_pattern", module)
        if rank not in ranks or rank < 1:
            raise InputError(f"{factor} has rank {rank}, {ADAPTER_CONFIG} says {ranks[0]:g}")
        if len(set(alphas)) > 1:
            log.warning(
                "%s: alpha_pattern has %s for %s; taking the first in the file, as peft does",
                self.path,
                alphas,
                module,
            )
        return alphas[0] / (math.sqrt(rank) if self._config.get("use_rslora") else rank)

    def _numbers(self, key: str, pattern_key: str, module: str) -> list[float]:
        """Return the values of the patterns that match the end of a module's name, or the adapter's own value
        where none does.

        peft trains with the first pattern that matches, but saves the patterns sorted. Where several match,
        only the stored rank tells which of them it was.
        """
        patterns = self._config.get(pattern_key) or {}
        if not isinstance(patterns, dict):
            raise InputError(f"{self.path}: {pattern_key} is a {type(patterns).__name__}, expected an object")
        values = [value for pattern, value in patterns.items() if self._fits(pattern_key, pattern, module)]
        values = values or [self._config.get(key, 8)]  # peft's default for both keys is 8.
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MOST:
                raise InputError(
                    f"{self.path}: {key} of {module} is {repr(value)[:60]}, expected a number below {_MOST:g}"
                )
        return values

    def _fits(self, pattern_key: str, pattern: str, module: str) -> bool:
        if _NESTED.search(pattern) or len(_REPEATED.findall(pattern)) > _REPEATS:
            raise InputError(
                f"{self.path}: {pattern_key} {pattern[:60]!r} repeats a group or more than {_REPEATS} parts, "
                "expected a pattern of names that is matched in no time"
            )
        try:
            return re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module) is not None
        except (re.error, OverflowError, RecursionError) as error:
            raise InputError(
                f"{self.path}: {pattern_key} {pattern[:60]!r} is no regular expression ({error})"
            ) from None


def _check(path: Path, config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise InputError(f"{path}: peft_type is {config.get('peft_type')!r}, expected 'LORA'; {_WAY_OUT}")
    for key, reason in _REFUSED.items():
        if config.get(key):
            raise InputError(f"{path}: {key} is set, but only plain LoRA can be merged: {reason}; {_WAY_OUT}")
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
