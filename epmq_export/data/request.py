"""The request to a reader of data."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """The place of images or texts, and the part of them that is meant."""

    path: Path | None = None
    """A file, or a directory of files."""

    dataset: str | None = None
    """An id of the Hugging Face hub, perhaps with `@revision`, in place of a path."""

    config: str | None = None
    """The config of a data set that has several."""

    split: str | None = None
    """The split of data that have several. None: the split that the reader's caller takes by default."""

    images: str | None = None
    """The column of a table, or the array of an .npz file, with the images. None: the usual one."""

    texts: Sequence[str] | None = None
    """The columns of a table, or the keys of a .jsonl, with the texts. None: the usual one."""

    labels: str | None = None
    """The column, array or key of the labels. None: the usual one, where there is one."""

    def __post_init__(self) -> None:
        if (self.path is None) is (self.dataset is None):
            raise ValueError(f"found path {self.path} and dataset {self.dataset}, expected one of them")
