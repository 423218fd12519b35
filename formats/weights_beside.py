"""Files of weights beside a model, which clients read themselves."""

from collections.abc import Mapping
from pathlib import Path


def weights_differences(folder: Path, wanted: Mapping[str, bytes]) -> list[str]:
    """Return a sentence for each of the files, by name, that is not as it should be in a folder."""
    return [
        f"{name} {'differs from the packed checkpoint' if (folder / name).is_file() else 'is missing'}"
        for name, content in wanted.items()
        if not (folder / name).is_file() or (folder / name).read_bytes() != content
    ]
