"""Images as files."""

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def two_colours(width: int = 4, height: int = 2) -> NDArray[np.uint8]:
    """Return pixels [height, width, 3]: red on the left, blue on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = RED, BLUE
    return pixels


def png(seed: int) -> bytes:
    """Return a small image, another one for every seed."""
    return encoded(Image.fromarray(np.random.default_rng(seed).integers(0, 256, (3, 5, 3), np.uint8)))


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def folders(root: Path, **classes: int) -> Path:
    """Write a directory with as many different images of each class; `train__cat` is `train/cat`."""
    for name, count in classes.items():
        for index in range(count):
            put(
                root / name.replace("__", "/") / f"{index}.png",
                png(zlib.crc32(f"{root.name}/{name}/{index}".encode())),
            )
    return root
