"""What the tests of images read them with."""

from pathlib import Path

from epmq_export.data.images import read_pictures
from epmq_export.data.pictures import Pictures
from epmq_export.data.request import DataRequest


def read(path: Path, default: str = "train", **keys: str) -> Pictures:
    """Return the images of a path; `keys` are those of the request, `default` the split where they say
    none.
    """
    return read_pictures(DataRequest(path=path, **keys), default)


def named(pictures: Pictures) -> list[str]:
    """Return the labels by their names."""
    assert pictures.labels is not None and pictures.names is not None
    return [pictures.names[label] for label in pictures.labels]
