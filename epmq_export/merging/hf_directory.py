"""A model's directory as Hugging Face lays it out: safetensors in shards, the companions of its base, a model
card.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import yaml

from epmq_export import files
from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.files.room import require_room
from epmq_export.tensors.companions import copy_companions
from epmq_export.tensors.directory import CONFIG, WEIGHTS
from epmq_export.tensors.modules import dense_weights
from epmq_export.tensors.safetensors_file import DTYPES
from epmq_export.tensors.shards import SHARD_BYTES, split, write_index
from epmq_export.tensors.source import TypedSource

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


def write_merged(
    directory: Path,
    source: TypedSource,
    model_dir: Path,
    card: str,
    shard_bytes: int = SHARD_BYTES,
    config: Mapping[str, Any] | None = None,
    tokenizer: Callable[[Path], None] | None = None,
) -> None:
    """Write a model, whole or not at all, replacing what is at `directory`.

    Tensors are loaded, written and dropped one after the other. Config, tokenizer and pooling are those of
    `model_dir`, but for the values of config.json in `config` and the files that `tokenizer` writes; `card`
    becomes README.md. A shard holds at most `shard_bytes` of tensors, unless one tensor alone is larger. The
    same arguments give the same bytes.
    """
    modules = dense_weights(model_dir)
    beside = {
        place: [name for name in source.names() if name.partition(".")[0] == place] for place in modules
    }
    known = {name for names in beside.values() for name in names}
    sizes = {name: _bytes(source, name) for name in sorted(source.names()) if name not in known}
    shards = split(sizes, shard_bytes)
    require_room({directory: sum(_bytes(source, name) for name in source.names())})
    with files.whole(directory) as built:
        built.mkdir()
        copy_companions(model_dir, built)
        if tokenizer is not None:
            tokenizer(built)
        _set_config(built / CONFIG, source, config or {})
        for file, names in shards.items():
            _write_shard(built / file, source, names)
        for place, names in beside.items():
            _write_shard(built / place / WEIGHTS, source, names, before=f"{place}.")
        if len(shards) > 1:
            write_index(
                built, {name: file for file, names in shards.items() for name in names}, sum(sizes.values())
            )
        (built / "README.md").write_text(card, encoding="utf-8")


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


def _write_shard(path: Path, source: TypedSource, names: Sequence[str], before: str = "") -> None:
    """Write one safetensors file, tensor by tensor, because the library's own writer wants all tensors in
    memory. The names in it lack what they all have `before` them.

    The layout is: the header's length in 8 bytes, the header as JSON padded to a multiple of 8, and the bytes
    in the header's order, the widest dtypes first so that each tensor is aligned.
    """
    ordered = sorted(names, key=lambda name: (-source.dtype(name).itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in ordered:
        start, end = end, end + _bytes(source, name)
        header[name.removeprefix(before)] = {
            "dtype": _NAMES[source.dtype(name)],
            "shape": list(source.shape(name)),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    # A tensor is written while the next one is computed, and no more than these two are in memory.
    with path.open("wb") as file, ThreadPoolExecutor(1) as writer:
        written: Future[int] = writer.submit(file.write, len(text).to_bytes(8, "little") + text)
        for name in ordered:
            value = source.load(name)
            written.result()
            if value.dtype != source.dtype(name) or tuple(value.shape) != source.shape(name):
                raise InputError(
                    f"tensor {name}: loaded {value.dtype} {list(value.shape)}, expected "
                    f"{source.dtype(name)} {list(source.shape(name))}"
                )
            data = value.contiguous().reshape(-1).view(torch.uint8).numpy().data
            written = writer.submit(file.write, data)
        written.result()


def _bytes(source: TypedSource, name: str) -> int:
    return torch.Size(source.shape(name)).numel() * source.dtype(name).itemsize


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
