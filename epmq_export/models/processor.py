"""A model's own image processor, from its preprocessor_config.json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoImageProcessor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from epmq_export.errors import InputError, first_line
from epmq_export.files import read_json
from epmq_export.models.samples import Picture

CONFIG = "preprocessor_config.json"

# Those that the library has no Pillow for, with one that does the same in another order (rounded to 256
# levels before it is normalised) and their own values of keys that the two have other defaults for.
_IN_PILLOW: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "DINOv3ViTImageProcessor": (
        ViTImageProcessorPil,
        {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
    )
}


def load_processor(directory: Path) -> Any:  # noqa: ANN401 - the library's classes share no typed call
    """Return the image processor of a model directory. It uses Pillow on every machine, because the library's
    other backend resizes to other numbers.

    Raises InputError where the directory has none.
    """
    try:
        library: Any = AutoImageProcessor  # The library has no type hints.
        said = read_json(directory / CONFIG)
        kind = str(said.get("image_processor_type")).removesuffix("Fast")
        if kind in _IN_PILLOW:
            other, defaults = _IN_PILLOW[kind]
            unsaid = {key: value for key, value in defaults.items() if said.get(key) is None}
            return other.from_pretrained(directory, local_files_only=True, **unsaid)
        return library.from_pretrained(directory, local_files_only=True, backend="pil")
    except Exception as error:  # The library raises whatever its parsers raise.
        raise InputError(
            f"{directory}: its image processor ({CONFIG}) cannot be used ({first_line(error)})"
        ) from None


def preprocess(processor: Any, pictures: Sequence[Picture]) -> NDArray[np.float32]:  # noqa: ANN401
    """Return pictures as the model takes them, float32 [len(pictures), 3, height, width]: resized, cropped
    and normalised as the processor says.
    """
    pixels: NDArray[np.float32] = processor(
        [picture.pixels() for picture in pictures], return_tensors="np", input_data_format="channels_last"
    )["pixel_values"]
    return pixels
