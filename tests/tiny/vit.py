"""Vision transformers with random weights, experts of them, pictures and linear heads, for tests of the
families vit, deit, dinov2, with registers and without, and dinov3_vit.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    DeiTModel,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

SIDE, PATCH, WIDTH, LAYERS = 32, 8, 64, 2
CONFIGS = {
    "vit": ViTConfig,
    "deit": DeiTConfig,
    "dinov2_with_registers": Dinov2WithRegistersConfig,
    "dinov2": Dinov2Config,
    "dinov3_vit": DINOv3ViTConfig,
}
MODELS: Mapping[str, type[PreTrainedModel]] = {
    model.__name__: model
    for model in (
        ViTModel,
        ViTForImageClassification,
        DeiTModel,
        DeiTForImageClassification,
        DeiTForImageClassificationWithTeacher,
        Dinov2Model,
        Dinov2ForImageClassification,
        Dinov2WithRegistersModel,
        Dinov2WithRegistersForImageClassification,
        DINOv3ViTModel,
    )
}
# What transformers 4 called what version 5 calls otherwise; the first for the layers of ViT and DeiT alone.
_OLD = (
    (r"(^|\.)layers\.", r"\1encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)
_OLD_MLP = ((r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense."))


def kind_of(architecture: str) -> str:
    return next(kind for kind in CONFIGS if architecture.lower().startswith(kind.replace("_", "")))


def model(architecture: str, *, seed: int = 0, **settings: Any) -> PreTrainedModel:
    """Make a model with random weights all over, LayerScale and norms among them. The settings change the
    config's.
    """
    kind = kind_of(architecture)
    inner = {"mlp_ratio": 2} if kind.startswith("dinov2") else {"intermediate_size": 2 * WIDTH}
    if kind in ("dinov2_with_registers", "dinov3_vit"):
        inner["num_register_tokens"] = 4
    sizes = {
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "image_size": SIDE,
        "patch_size": PATCH,
        "num_labels": 3,
    }
    torch.manual_seed(seed)
    made: PreTrainedModel = MODELS[architecture](CONFIGS[kind](**{**sizes, **inner, **settings}))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return made.eval()


def old_names(tensors: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Return the tensors as transformers 4 has written them; of DINOv3 the names in the library's code, which
    the library itself writes in no file.
    """
    if kind == "dinov3_vit":
        return {re.sub(r"^layer\.", "model.layer.", name): value for name, value in tensors.items()}
    found = {}
    for name, value in tensors.items():
        for new, old in _OLD[1:] if kind.startswith("dinov2") else (*_OLD, *_OLD_MLP):
            name = re.sub(new, old, name)
        found[name] = value
    return found


def vit(
    directory: Path,
    architecture: str = "ViTModel",
    *,
    old: bool = False,
    crop: tuple[int, int] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Path:
    """Write a model directory: config, weights under the names of transformers 5 (`old`: 4), image processor
    with pictures of the size `crop`.
    """
    made = model(architecture, seed=seed, **settings)
    made.save_pretrained(directory)
    tensors = {
        re.sub(r"^model\.", "", name): value.detach().clone() for name, value in made.state_dict().items()
    }
    save_file(
        old_names(tensors, kind_of(architecture)) if old else tensors,
        directory / "model.safetensors",
        {"format": "pt"},
    )
    processor(directory, crop or (SIDE, SIDE), kind_of(architecture))
    return directory


def processor(directory: Path, crop: tuple[int, int], kind: str = "vit") -> None:
    height, width = crop
    if kind.startswith("dinov2"):  # which cuts pictures; ViT's squeezes them
        BitImageProcessorPil(
            size={"shortest_edge": max(crop) + 4}, crop_size={"height": height, "width": width}
        ).save_pretrained(directory)
        return
    ViTImageProcessorPil(size={"height": height, "width": width}).save_pretrained(directory)
    if kind == "dinov3_vit":  # The class that its own files name; the library has no Pillow for it.
        place = directory / "preprocessor_config.json"
        settings = json.loads(place.read_text()) | {"image_processor_type": "DINOv3ViTImageProcessorFast"}
        place.write_text(json.dumps(settings))


def expert(directory: Path, base: Path, seed: int, *, old: str | None = None) -> Path:
    """Write the base with noise on the matrices of its layers, under the names that transformers 4 has for
    the kind `old`.
    """
    torch.manual_seed(seed)
    directory.mkdir(parents=True)
    tensors = load_file(base / "model.safetensors")
    noisy = {
        name: value + 0.02 * torch.randn_like(value) if value.ndim == 2 and ".layer" in f".{name}" else value
        for name, value in tensors.items()
    }
    save_file(old_names(noisy, old) if old else noisy, directory / "model.safetensors", {"format": "pt"})
    for place in base.glob("*.json"):
        (directory / place.name).write_bytes(place.read_bytes())
    return directory


def pictures(count: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw pictures [count, 24, 24, 3] of three classes, by their leading colour, and return them with the
    classes.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    labels = np.arange(count) % 3
    pixels = random.integers(0, 128, (count, 24, 24, 3))
    pixels[np.arange(count), :, :, labels] += 120
    return pixels.astype(np.uint8), labels
