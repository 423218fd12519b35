"""The files of a tokenizer as every client reads them.

Many clients read tokenizer.json and tokenizer_config.json and no other file of a tokenizer. So the first is
made of vocab.txt where it is not there, and the second has the chat templates. transformers 4 knows no class
`TokenizersBackend`, nor special tokens without a role in a list.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedTokenizerFast

from epmq_export.files import read_json
from epmq_export.models.tokenizer import CLASS, SETTINGS, TOKENIZER, fast_tokenizer, for_every_version


def tokenizer_files(source: Path, found: Collection[str]) -> dict[str, bytes]:
    """Return the files of the tokenizer of the model's directory `source` that are other than those there, by
    name. `found` are the names of the files there.
    """
    changed: dict[str, bytes] = {}
    tokenizer = fast_tokenizer(source)
    if TOKENIZER not in found:
        changed[TOKENIZER] = (tokenizer.backend_tokenizer.to_str(pretty=True) + "\n").encode()
    settings = read_json(source / SETTINGS) if SETTINGS in found else _settings_of(tokenizer)
    if (told := _told(settings, tokenizer)) != settings or SETTINGS not in found:
        changed[SETTINGS] = as_json(told)
    return changed


def as_json(content: object) -> bytes:
    """Return the bytes of a JSON file."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _told(settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return the content of tokenizer_config.json with the chat templates, wherever they lie, and with the
    class of a tokenizer that is tokenizer.json alone, where the library took it for that.
    """
    told = for_every_version(settings)
    if type(tokenizer) is PreTrainedTokenizerFast:
        told["tokenizer_class"] = CLASS
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in sorted(template.items())]
    if template:
        told["chat_template"] = template
    return told


def _settings_of(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return what the library writes into tokenizer_config.json."""
    with TemporaryDirectory(prefix="epmq-") as scratch:
        tokenizer.save_pretrained(scratch)
        return read_json(Path(scratch, SETTINGS))
