"""The files beside the models' folder: config and tokenizer as the packed checkpoint has them, and files that
only runtimes need.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from epmq_export.models.family import Family
from epmq_export.tensors.companions import companions
from formats.onnx.spec import specs_of

FOLDER = "onnx"
"""The models' folder, which transformers.js asks for by this name."""


def own_files(family: Family, ending: str) -> dict[str, bytes]:
    """Return the files that runtimes need beside the models' folder, by name. `ending` is the ending of the
    models.
    """
    found = {
        name: content
        for stem, spec in specs_of(family).items()
        for name, content in spec.beside(f"{FOLDER}/{stem}{ending}").items()
    }
    return {name: (json.dumps(content, indent=2) + "\n").encode() for name, content in found.items()}


def companion_differences(folder: Path, source: Path, own: Mapping[str, bytes]) -> list[str]:
    """Return a sentence for each difference between the files of a folder and those of the packed checkpoint
    `source`. The files `own` are written whatever the checkpoint has under their names.
    """
    wanted = _content(source) | dict(own)
    found = _content(folder)
    shared = wanted.keys() & found.keys()
    return sorted(
        [f"{name} is missing" for name in wanted.keys() - shared]
        + [f"{name} is not among the packed checkpoint's files" for name in found.keys() - shared]
        + [f"{name} differs from the packed checkpoint's" for name in shared if wanted[name] != found[name]]
    )


def _content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in companions(folder)}
