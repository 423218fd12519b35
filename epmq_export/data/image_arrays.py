"""Images in the arrays of an .npz file. An array is read whole and stays in memory."""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from epmq_export.data.labels import by_name, distinct
from epmq_export.data.pictures import Pictures, of_array
from epmq_export.errors import InputError, did_you_mean, first_line


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    def __str__(self) -> str:
        return f"{'text' if self.is_text else self.dtype} {list(self.shape)}"

    @property
    def is_text(self) -> bool:
        return self.dtype.kind in "US"


def read_arrays(path: Path, images: str | None, labels: str | None) -> Pictures:
    """Return the images in an .npz file: uint8 [n, height, width] or [n, height, width, 1 or 3], under the
    key `images`, or by default in the only such array of the file, `images` or `x`.

    Labels are under the key `labels`, or by default under `labels` or `y` where the file has one. They are
    whole numbers [n] or [n, 1], or texts [n]. The names of counted classes are the texts under `names` or
    `classes`, or under `labels` where these are not as many as the images. Raises InputError, with the key,
    where an array is not so. Nothing is unpickled.
    """
    file = _Arrays(path)
    key = file.images(images)
    count = file.headers[key].shape[0]
    label_key = (
        labels
        if labels is not None
        else file.first(("labels", "y"), lambda header: not header.is_text or header.shape == (count,))
    )
    found, names = None, None
    if label_key is not None:
        found, names = file.labels(label_key, count)
    if found is not None and names is None:
        named = file.first(
            ("names", "classes", "labels"),
            lambda header: header.is_text and len(header.shape) == 1,
            besides=label_key,
        )
        names = None if named is None else distinct(file.texts(named), f"{path}: {named}")
        counted = True
    else:
        counted = False
    pixels = file.read(key).view(np.uint8)
    return Pictures(
        [of_array(array, f"{path}: {key}[{index}]") for index, array in enumerate(pixels)],
        found,
        names,
        counted,
    )


class _Arrays:
    """The arrays of one file. Opening it reads their headers alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.headers: dict[str, _Header] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith(".npy"):
                        with archive.open(member) as file:
                            read = {
                                (1, 0): np.lib.format.read_array_header_1_0,
                                (2, 0): np.lib.format.read_array_header_2_0,
                            }
                            shape, _, dtype = read[np.lib.format.read_magic(file)](file)
                        self.headers[member.removesuffix(".npy")] = _Header(shape, dtype)
        except Exception as error:  # The libraries raise whatever their parsers raise.
            raise self._broken(error) from None

    def read(self, key: str) -> NDArray[np.generic]:
        """Return an array. Raises InputError where its bytes are broken."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{key}.npy") as file:
                array: NDArray[np.generic] = np.lib.format.read_array(file, allow_pickle=False)
                return array
        except Exception as error:  # The libraries raise whatever their parsers raise.
            raise self._broken(error, f"{key}: ") from None

    def images(self, asked: str | None) -> str:
        """Return the key of the images."""
        shaped = [
            key
            for key, header in self.headers.items()
            if header.dtype == np.uint8 and len(header.shape) in (3, 4)
        ]
        if asked is None:
            key = (
                shaped[0]
                if len(shaped) == 1
                else next((key for key in ("images", "x") if key in self.headers), None)
            )
            if key is None:
                found = f"the arrays {self._told(shaped or self.headers)}" if self.headers else "no array"
                raise InputError(
                    f"{self.path}: found {found}, expected the key images to name one of uint8 [n, "
                    "height, width] or [n, height, width, 3]"
                )
        else:
            key = asked
        header = self._known(key)
        if (
            key not in shaped
            or (len(header.shape) == 4 and header.shape[3] not in (1, 3))
            or 0 in header.shape[1:]
        ):
            raise InputError(
                f"{self.path}: {key}: found {header}, expected uint8 [n, height, width] or [n, height, "
                "width, 3]"
            )
        if not header.shape[0]:
            raise InputError(f"{self.path}: {key}: found no image, expected at least one")
        return key

    def labels(self, key: str, count: int) -> tuple[Sequence[int], Sequence[str] | None]:
        """Return the labels under a key, with their names where the labels are texts."""
        header = self._known(key)
        if header.shape not in ((count,), (count, 1)) or not (header.is_text or header.dtype.kind in "iu"):
            raise InputError(
                f"{self.path}: {key}: found {header}, expected whole numbers or texts [{count}], a label "
                "for each image"
            )
        if header.is_text:
            return by_name(self.texts(key))
        labels: list[int] = self.read(key).reshape(-1).tolist()
        return labels, None

    def texts(self, key: str) -> list[str]:
        """Return the texts under a key. Raises InputError where they are not in UTF-8."""
        try:
            return [
                value.decode() if isinstance(value, bytes) else str(value)
                for value in self.read(key).reshape(-1).tolist()
            ]
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: {key}: found texts that are not in UTF-8") from None

    def first(
        self, keys: Sequence[str], fits: Callable[[_Header], bool], besides: str | None = None
    ) -> str | None:
        """Return the first of some keys that the file has, that fits, and that is not `besides`."""
        return next(
            (key for key in keys if key in self.headers and key != besides and fits(self.headers[key])), None
        )

    def _known(self, key: str) -> _Header:
        if key not in self.headers:
            raise InputError(
                f"{self.path}: found no array {key!r}, expected one of "
                f"{self._told(self.headers)}{did_you_mean(key, self.headers)}"
            )
        return self.headers[key]

    def _told(self, keys: Sequence[str] | Mapping[str, _Header]) -> str:
        return ", ".join(f"{key} ({self.headers[key]})" for key in [*keys][:8]) + (
            ", ..." if len(keys) > 8 else ""
        )

    def _broken(self, error: Exception, key: str = "") -> InputError:
        return InputError(
            f"{self.path}: {key}not readable as .npz ({first_line(error)}), expected arrays written by "
            "numpy.savez"
        )
