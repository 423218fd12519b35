"""The files beside the models' folder: config and tokenizer as the packed checkpoint has them but for what
clients need to be told there (clients.py), and files that only runtimes need.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors.torch import save

from epmq_export.models.family import Family
from epmq_export.tensors.packed import Packed
from formats.companions import files_in, files_of
from formats.onnx.clients import as_clients_read
from formats.onnx.spec import specs_of

FOLDER = "onnx"
"""The models' folder, which transformers.js asks for by this name."""


def files_beside(source: Path, family: Family, ending: str, apart: Collection[str]) -> dict[str, bytes]:
    """Return the files beside the models' folder, by name, for the packed checkpoint `source`.

    `ending` is the ending of the models; `apart` are the paths, from there, of those whose weights lie in a
    file of their own.
    """
    models = {stem: f"{FOLDER}/{stem}{ending}" for stem in specs_of(family)}
    own = {
        name: (json.dumps(content, indent=2) + "\n").encode()
        for stem, spec in specs_of(family).items()
        for name, content in spec.beside(models[stem]).items()
    }
    return as_clients_read(source, files_of(source, family), family, models.values(), apart) | own


def weights_beside(packed: Packed, family: Family) -> dict[str, bytes]:
    """Return the files of weights that clients read beside the graph, by name, their tensors float32."""
    return {
        name: save({own: packed.load(tensor).float() for own, tensor in names.items()})
        for spec in specs_of(family).values()
        for name, names in spec.beside_weights.items()
    }


def companion_differences(folder: Path, wanted: Mapping[str, bytes]) -> list[str]:
    """Return a sentence for each difference between the files of a folder and those that it should have."""
    found = files_in(folder)
    shared = wanted.keys() & found.keys()
    return sorted(
        [f"{name} is missing" for name in wanted.keys() - shared]
        + [f"{name} is not among the packed checkpoint's files" for name in found.keys() - shared]
        + [f"{name} differs from the packed checkpoint's" for name in shared if wanted[name] != found[name]]
    )
