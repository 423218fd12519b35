"""The files that travel with a model's weights: config, tokenizer, processor, pooling."""

import json
import shutil
from pathlib import Path

from epmq_export.files import read_json
from epmq_export.tensors.directory import (
    ADAPTER_CONFIG,
    CONFIG,
    PACKED_INDEX,
    PACKED_SHARD_INDEX,
    QUANTIZATION,
    SHARD_INDEX,
)

TEMPLATES = "additional_chat_templates"
"""The folder of the chat templates that are not the default one, as transformers writes them."""

# The files beside the weights in a model's directory that are copied. The rest of such a directory (other
# weights, caches, pictures) stays behind.
COMPANIONS = ("*.json", "*.txt", "*.model", "*.jinja", f"{TEMPLATES}/*.jinja", "*/config.json")


# Files that describe how the weights of that directory are stored, which a copy stores differently.
_OWN = {PACKED_INDEX, SHARD_INDEX, PACKED_SHARD_INDEX, ADAPTER_CONFIG}

# Files that training leaves beside a model, which nothing that opens the model reads. The first lists what a
# sentence encoder was trained on; the others are those of transformers' Trainer.
_OF_TRAINING = {
    "data_config.json",
    "trainer_state.json",
    "all_results.json",
    *(f"{split}_results.json" for split in ("train", "eval", "test", "predict")),
}


def companions(directory: Path) -> list[Path]:
    """Return the config, tokenizer and pooling files of a model's directory, sorted."""
    left = _OWN | _OF_TRAINING
    found = {path for pattern in COMPANIONS for path in directory.glob(pattern) if path.name not in left}
    return sorted(path for path in found if path.is_file())


def copy_companions(source: Path, target: Path) -> None:
    """Copy the companions of one model's directory into another, which exists. The copy's config.json says
    nothing of quantised weights, since those are not copied.
    """
    for path in companions(source):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    config = target / CONFIG
    if config.exists() and QUANTIZATION in config.read_text(encoding="utf-8", errors="replace"):
        content = {key: value for key, value in read_json(config).items() if key != QUANTIZATION}
        config.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
