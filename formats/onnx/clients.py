"""What clients have to be told in the files beside the models' folder.

- transformers.js finds in config.json, under `transformers.js_config`, which models it loads, and the classes
  of a classifier.
- sentence-transformers finds the model by `model_args` in sentence_bert_config.json.
- All need the tokenizer in tokenizer.json and tokenizer_config.json (formats/tokenizer_files.py).

Each of these is one that other clients read past.
"""

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from epmq_export.files import read_json
from epmq_export.models.family import Family, heads_of, towers
from formats.tokenizer_files import as_json, tokenizer_files

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
    told = _told_types(read_json(source / CONFIG), "_q4." in main, apart)
    changed[CONFIG] = as_json({**told, **_told_classes(family)})
    if all(tower.images is not None for tower in towers(family)):
        return changed
    changed |= tokenizer_files(source, found)
    if MODULES in found or SENTENCES in found:
        sentences = read_json(source / SENTENCES) if SENTENCES in found else {}
        arguments = {**(sentences.get("model_args") or {}), "file_name": main}
        changed[SENTENCES] = as_json({**sentences, "model_args": arguments})
    return changed


def _told_classes(family: Family) -> dict[str, Any]:
    """Return what a config says of the classes of a model with one classifier."""
    heads = heads_of(family)
    if len(heads) != 1:
        return {}
    names = {str(place): name for place, name in enumerate(heads[0].classes)}
    return {"id2label": names, "label2id": {name: int(place) for place, name in names.items()}}


def _told_types(config: Mapping[str, Any], quantised: bool, apart: Collection[str]) -> dict[str, Any]:
    """Return a config that says which models transformers.js loads, and which have their weights apart."""
    key = "transformers.js_config"
    hints = {**(config.get(key) or {}), "dtype": _TYPES[quantised]}
    hints.pop("use_external_data_format", None)
    if apart:
        hints["use_external_data_format"] = {PurePosixPath(path).name: 1 for path in sorted(apart)}
    return {**config, key: hints}
