"""A model's directory as Hugging Face lays it out: safetensors in shards, the companions of its base, a model
card.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from epmq_export import files
from epmq_export.files import read_json
from epmq_export.files.room import require_room
from epmq_export.tensors.companions import copy_companions
from epmq_export.tensors.directory import CONFIG, WEIGHTS
from epmq_export.tensors.modules import dense_weights
from epmq_export.tensors.safetensors_writer import bytes_of, write_one_by_one
from epmq_export.tensors.shards import SHARD_BYTES, split, write_index
from epmq_export.tensors.source import TypedSource

_METADATA = {"format": "pt"}
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def write_merged(
    directory: Path,
    source: TypedSource,
    model_dir: Path,
    card: str,
    shard_bytes: int = SHARD_BYTES,
    config: Mapping[str, Any] | None = None,
    tokenizer: Callable[[Path], None] | None = None,
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Write a model, whole or not at all, replacing what is at `directory`.

    Tensors are loaded, written and dropped one after the other. Config, tokenizer and pooling are those of
    `model_dir`, but for the values of config.json in `config` and the files that `tokenizer` writes; `card`
    becomes README.md, and `beside` has further files by name. A shard holds at most `shard_bytes` of tensors,
    unless one tensor alone is larger. The same arguments give the same bytes.
    """
    modules = dense_weights(model_dir)
    placed = {
        place: [name for name in source.names() if name.partition(".")[0] == place] for place in modules
    }
    known = {name for names in placed.values() for name in names}
    sizes = {name: bytes_of(source, name) for name in sorted(source.names()) if name not in known}
    shards = split(sizes, shard_bytes)
    require_room({directory: sum(bytes_of(source, name) for name in source.names())})
    with files.whole(directory) as built:
        built.mkdir()
        copy_companions(model_dir, built)
        if tokenizer is not None:
            tokenizer(built)
        _set_config(built / CONFIG, source, config or {})
        for file, names in shards.items():
            write_one_by_one(built / file, source, names, _METADATA)
        for place, names in placed.items():
            write_one_by_one(built / place / WEIGHTS, source, names, _METADATA, before=f"{place}.")
        if len(shards) > 1:
            write_index(
                built, {name: file for file, names in shards.items() for name in names}, sum(sizes.values())
            )
        for name, content in {**(beside or {}), "README.md": card.encode()}.items():
            (built / name).write_bytes(content)


def model_card(base: str, experts: Sequence[str], rule: str, recipe: str) -> str:
    """Return README.md with the front matter that the hub reads; `recipe` is shown as it was written
    (YAML).
    """
    # The hub refuses local paths there.
    parents = [name for name in dict.fromkeys((base, *experts)) if _HUB_ID.fullmatch(name)]
    front = {"base_model": parents, "library_name": "transformers", "tags": ["merge", "epmq-export"]}
    if not parents:
        del front["base_model"]
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", recipe)), default=0))
    models = "\n".join(f"- {name}" for name in experts)
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=True)}---\n# Merged model\n\n"
        f"Merged with epmq-export by the rule `{rule}` on the base {base} from\n\n{models}\n\n"
        f"## Recipe\n\n{fence}yaml\n{recipe.rstrip()}\n{fence}\n"
    )


def _set_config(config: Path, source: TypedSource, changes: Mapping[str, Any]) -> None:
    """Say in config.json what was written, because transformers loads a model as it says. Other companions
    stay as they are.
    """
    if not config.exists():
        return
    content = read_json(config)
    written = {source.dtype(name) for name in source.names() if source.dtype(name).is_floating_point}
    new = dict(changes)
    if len(written) == 1:
        dtype = str(written.pop()).removeprefix("torch.")
        new |= {key: dtype for key in ("dtype", "torch_dtype") if key in content}
    if any(content.get(key) != value for key, value in new.items()):
        config.write_text(
            json.dumps({**content, **new}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
