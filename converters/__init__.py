"""The model families: blocks in data order, names, metadata and tokenizer. Each family, or group of families,
has a folder.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from converters.bert.family import Bert
from converters.clip.family import Clip
from converters.decoder.family import gemma3, llama, mistral, qwen2, qwen3, smollm3
from converters.t5.family import T5
from converters.vit.family import deit, dinov2, vit
from epmq_export.errors import InputError
from epmq_export.models.family import Family

FAMILIES: dict[str, Callable[[Path], Family]] = {
    "bert": Bert.open,
    "clip": Clip.open,
    "vit": vit,
    "deit": deit,
    "dinov2": dinov2,
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "gemma3_text": gemma3,
    "smollm3": smollm3,
    "t5": T5.open,
}


def open_family(directory: Path) -> Family:
    """Return the family of a model directory, by the `model_type` of its config.json.

    Raises InputError where the directory has no readable config.json, or no family is known for it.
    """
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{directory} is no model directory: it has no config.json") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    found = config.get("model_type") if isinstance(config, dict) else None
    if found not in FAMILIES:
        raise InputError(f"{path}: model_type is {found!r}; supported: {', '.join(FAMILIES)}")
    return FAMILIES[found](directory)


def frozen(directory: Path) -> Sequence[str]:
    """Return the patterns of the tensors that a merge leaves as the base's. There are none for a model of no
    known family.
    """
    try:
        return open_family(directory).frozen
    except InputError:
        return ()
