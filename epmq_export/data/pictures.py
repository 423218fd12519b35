"""Images with their labels, and the one place where images are decoded."""

import hashlib
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from epmq_export.data.labels import UNLABELLED
from epmq_export.errors import InputError, first_line
from epmq_export.files import sha256
from epmq_export.models.samples import Picture, Pixels

# Only these decoders of Pillow are allowed. The ending of a file says nothing about its bytes, and some of
# the other decoders start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
ENDINGS = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
)


@dataclass(frozen=True)
class Pictures:
    """Images with their labels."""

    samples: Sequence[Picture]
    labels: Sequence[int] | None
    """An index into `names` for each sample, or the number that the data themselves use, or `UNLABELLED`.
    None: no sample has one. They are not checked, because calibration needs no labels.
    """

    names: Sequence[str] | None
    """The names of the classes, distinct, where the data name them."""

    counted: bool = True
    """Whether the data themselves number their classes, so that a recipe's classes may stand for them in
    their order. Folders do not.
    """

    data: Mapping[str, str] = field(default_factory=dict)
    """The SHA-256 of data that are no files of the user's, by name."""

    @property
    def classes(self) -> Sequence[int | str | None] | None:
        """Return the labels as the data themselves have them: numbers where they number their classes, else
        names.
        """
        if self.labels is None or self.names is None or self.counted:
            return self.labels
        return [None if label == UNLABELLED else self.names[label] for label in self.labels]


def of_file(path: Path) -> Picture:
    """Return the image of a file. Its bytes are read now for the digest, and again when it is decoded.

    Raises InputError where they cannot be read.
    """
    try:
        return Picture(str(path), sha256(path), partial(_decode_file, path))
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror})") from None


def of_array(array: NDArray[np.uint8], place: str) -> Picture:
    """Return the image of pixels that are already decoded: uint8 [height, width], [height, width, 1] or
    [height, width, 3].
    """
    digest = hashlib.sha256(f"{array.shape}".encode() + array.tobytes()).hexdigest()
    return Picture(place, digest, partial(_three, array))


def decode(encoded: bytes, place: str) -> Pixels:
    """Return an image's pixels, uint8 [height, width, 3] in red, green and blue, as the image is meant to be
    seen: turned by its EXIF orientation, and the first of several frames.

    Transparency is dropped, as the models' own processors do. Raises InputError, with the place, for bytes
    that are no image, that are cut short, or that have so many pixels that they can only be meant to fill the
    memory.
    """
    expected = f"expected an image ({', '.join(FORMATS)})"
    if not encoded:
        raise InputError(f"{place}: found no bytes, {expected}")
    try:
        with warnings.catch_warnings():
            # Warnings tell of an odd palette or EXIF block. Anything serious raises.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(encoded), formats=FORMATS) as opened:
                return _rgb(ImageOps.exif_transpose(opened))
    except UnidentifiedImageError:  # The library's message holds an address in memory, so it is not shown.
        raise InputError(f"{place}: found no image, {expected}") from None
    except Exception as error:  # The library raises whatever its parsers raise.
        reason = first_line(error).removesuffix(".")
        raise InputError(
            f"{place}: found an image that cannot be decoded ({reason}), expected a whole one"
        ) from None


def _decode_file(path: Path) -> Pixels:
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror})") from None
    return decode(encoded, str(path))


def _rgb(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):
        # These are 16 bits a pixel, which Pillow would cut off at 255. The mode is `I`, of 32 bits, where
        # Pillow has no smaller one for them.
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError(f"pixels from {wide.min()} to {wide.max()}, 16 bits at most")
        return _three(((wide * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("pixels that are floats")
    return np.array(image.convert("RGB"))


def _three(array: NDArray[np.uint8]) -> Pixels:
    grey = array[:, :, None] if array.ndim == 2 else array
    return np.ascontiguousarray(np.broadcast_to(grey, (*grey.shape[:2], 3)))
