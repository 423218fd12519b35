"""The files of sentence-transformers, and its modules that have weights of their own beside the
transformer's.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epmq_export.errors import InputError
from epmq_export.files import read_json, read_json_list
from epmq_export.tensors.directory import PICKLES, WEIGHTS, pickle_refusal
from epmq_export.tensors.safetensors_file import SafetensorsFile
from epmq_export.tensors.source import Renamed

MODULES = "modules.json"
LENGTHS, PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"
"""The files of the lengths of texts, and of what is put before them."""

DENSE = "Dense"
_OF_MODULE = re.compile(r"\d+_\w+/config\.json")
_PLACE = re.compile(rf"\d+_{DENSE}")
_TENSOR = re.compile(rf"\d+_{DENSE}\.linear\.(?:weight|bias)")


def is_of_sentences(name: str) -> bool:
    """Return whether a file of a model's directory, by its path there, is one that only sentence-transformers
    reads.
    """
    return name in (MODULES, LENGTHS, PROMPTS) or _OF_MODULE.fullmatch(name) is not None


def is_cross_encoder(directory: Path) -> bool:
    """Return whether sentence-transformers calls a model a cross-encoder, which pools no tokens: its own head
    scores texts.
    """
    path = directory / PROMPTS
    return path.is_file() and bool(read_json(path).get("model_type") == "CrossEncoder")


def is_dense(name: str) -> bool:
    """Return whether a tensor has the name of a Dense module's."""
    return _TENSOR.fullmatch(name) is not None


def pooling_option(settings: Mapping[str, Any]) -> str:
    """Return transformers.js's word for what a pooling's config says, of those that it has."""
    mode = settings.get("pooling_mode")
    found = mode[0] if isinstance(mode, list) and len(mode) == 1 else mode
    if settings.get("pooling_mode_cls_token") or found == "cls":
        return "cls"
    return "last_token" if settings.get("pooling_mode_lasttoken") or found == "lasttoken" else "mean"


def dense_tensors(directory: Path) -> dict[Path, Renamed]:
    """Return the tensors of each Dense module, under the model's names, by their files."""
    return {
        path: Renamed(file := SafetensorsFile(path), {f"{place}.{name}": name for name in file.names()})
        for place, path in dense_weights(directory).items()
    }


def dense_weights(directory: Path) -> dict[str, Path]:
    """Return the file of the weights of each Dense that modules.json names, by the module's folder, in their
    order. A tensor `linear.weight` of `2_Dense` is a model's tensor `2_Dense.linear.weight`.

    Raises InputError where there is no such file.
    """
    path = directory / MODULES
    entries = read_json_list(path) if path.is_file() else []
    found = {}
    for entry in entries:
        kind, place = (entry.get(key) if isinstance(entry, dict) else None for key in ("type", "path"))
        if not isinstance(kind, str) or kind.rpartition(".")[2] != DENSE:
            continue
        if not isinstance(place, str) or not _PLACE.fullmatch(place):
            raise InputError(f"{path}: found a Dense in {place!r}, expected a folder such as 2_Dense")
        file = directory / place / WEIGHTS
        if not file.is_file():
            pickles = sorted((directory / place).glob("*"))
            named = next((each.name for each in pickles if each.suffix in PICKLES), None)
            if named is not None:
                raise InputError(f"{directory / place}: {pickle_refusal(named)}")
            raise InputError(f"{file}: no such file, expected the weights of the Dense that {MODULES} names")
        found[place] = file
    return found
