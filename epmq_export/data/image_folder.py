"""Images that are files of a directory, perhaps by class and by split: `train/cat/1.png`."""

from pathlib import Path

from epmq_export.data.classes import UNLABELLED
from epmq_export.data.folder import SPLITS
from epmq_export.data.pictures import ENDINGS, Pictures, of_file
from epmq_export.errors import InputError, did_you_mean


def is_image(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS


def read_folder(directory: Path, images: list[Path], split: str | None, default: str) -> Pictures:
    """The images of a directory by class: the first folder below it, or below the split's folder. Without
    such folders they have no labels.

    A directory that has folders of splits and nothing else gives those of `split`, or of `default`;
    InputError where there is none of that name.
    """
    inside = [path.relative_to(directory).parts for path in images]
    tops = sorted({parts[0] for parts in inside if len(parts) > 1})
    splits = tops if tops and set(tops) <= SPLITS and all(len(parts) > 1 for parts in inside) else []
    if split is not None or splits:
        asked = split or default
        if asked not in tops:
            raise InputError(
                f"{directory}: found the folders {', '.join(tops) or 'of nothing'} and no split {asked!r}, "
                "expected the key split to name one"
                f"{did_you_mean(asked, tops)}"
            )
        images = [
            path for path, parts in zip(images, inside, strict=True) if parts[0] == asked and len(parts) > 1
        ]
        inside = [path.relative_to(directory / asked).parts for path in images]
    names = sorted({parts[0] for parts in inside if len(parts) > 1})
    order = {name: index for index, name in enumerate(names)}
    labels = [order[parts[0]] if len(parts) > 1 else UNLABELLED for parts in inside] if names else None
    return Pictures([of_file(path) for path in images], labels, names or None, counted=False)
