"""What clients have to be told in the files beside the models' folder.

- transformers.js reads tokenizer.json and tokenizer_config.json and no other file of a tokenizer. So the
  first is made of vocab.txt where it is not there, and the second has the chat templates. Which models it
  loads stands in config.json under `transformers.js_config`.
- sentence-transformers finds the model by `model_args` in sentence_bert_config.json.
- transformers 4 knows no class `TokenizersBackend`, nor special tokens without a role in a list.

Each of these is one that other clients read past.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from transformers import PreTrainedTokenizerFast

from epmq_export.files import read_json
from epmq_export.models.family import Family, towers
from epmq_export.models.tokenizer import CLASS, SETTINGS, TOKENIZER, fast_tokenizer, for_every_version

CONFIG, SENTENCES, MODULES = "config.json", "sentence_bert_config.json", "modules.json"
_TYPES = {True: "q4", False: "fp32"}
"""What transformers.js calls models, by whether anything in them is on a grid."""


def as_clients_read(
    source: Path, found: Mapping[str, bytes], family: Family, models: Collection[str], apart: Collection[str]
) -> dict[str, bytes]:
    """Return the files `found` of the model's directory `source` as clients read them, by name.

    `models` are the paths of the models' files, the one that tasks are judged by first; `apart` are those
    whose weights lie in a file of their own.
    """
    main = next(iter(models))
    changed = dict(found)
    changed[CONFIG] = _json(_told_types(read_json(source / CONFIG), "_q4." in main, apart))
    if all(tower.images is not None for tower in towers(family)):
        return changed
    tokenizer = fast_tokenizer(source)
    if TOKENIZER not in found:
        changed[TOKENIZER] = (tokenizer.backend_tokenizer.to_str(pretty=True) + "\n").encode()
    settings = read_json(source / SETTINGS) if SETTINGS in found else _settings_of(tokenizer)
    if (told := _told_of_tokenizer(settings, tokenizer)) != settings or SETTINGS not in found:
        changed[SETTINGS] = _json(told)
    if MODULES in found or SENTENCES in found:
        sentences = read_json(source / SENTENCES) if SENTENCES in found else {}
        arguments = {**(sentences.get("model_args") or {}), "file_name": main}
        changed[SENTENCES] = _json({**sentences, "model_args": arguments})
    return changed


def _told_types(config: Mapping[str, Any], quantised: bool, apart: Collection[str]) -> dict[str, Any]:
    """Return a config that says which models transformers.js loads, and which have their weights apart."""
    key = "transformers.js_config"
    hints = {**(config.get(key) or {}), "dtype": _TYPES[quantised]}
    hints.pop("use_external_data_format", None)
    if apart:
        hints["use_external_data_format"] = {PurePosixPath(path).name: 1 for path in sorted(apart)}
    return {**config, key: hints}


def _told_of_tokenizer(settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
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


def _json(content: object) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
