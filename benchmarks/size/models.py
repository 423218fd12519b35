"""CLIP models of the true shapes, randomly initialised, and the recipe that merges them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from epmq_export import files

VOCABULARY, SIDE, LEFT = 49408, 224, 2


@dataclass(frozen=True)
class Shape:
    """The sizes of an image tower, and of the text tower beside it."""

    width: int
    layers: int
    patch: int
    text_width: int
    projection: int


# OpenAI's ViT-B/32 and ViT-L/14.
SHAPES = {"b32": Shape(768, 12, 32, 512, 512), "l14": Shape(1024, 24, 14, 768, 768)}


def write_base(shape: Shape, directory: Path) -> None:
    """Write a whole CLIP in float16, with a tokenizer of CLIP's size."""
    torch.manual_seed(0)
    text = {
        "hidden_size": shape.text_width,
        "intermediate_size": 4 * shape.text_width,
        "num_attention_heads": shape.text_width // 64,
    }
    text |= {
        "num_hidden_layers": 12,
        "vocab_size": VOCABULARY,
        "bos_token_id": VOCABULARY - 2,
        "eos_token_id": VOCABULARY - 1,
    }
    vision = {
        "hidden_size": shape.width,
        "intermediate_size": 4 * shape.width,
        "num_attention_heads": shape.width // 64,
    }
    vision |= {"num_hidden_layers": shape.layers, "image_size": SIDE, "patch_size": shape.patch}
    model: Any = CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=shape.projection)
    )
    model.half().save_pretrained(directory)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet)]
    tokens += [
        "in</w>",
        *(f"<unused{i}>" for i in range(VOCABULARY - 3 - len(tokens))),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    merges: Any = [("i", "n</w>")]  # one, since a file without any would be no CLIP's
    CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=77
    ).save_pretrained(directory)
    CLIPImageProcessorPil().save_pretrained(directory)


def write_expert(base: Path, directory: Path, seed: int) -> None:
    """Write the base's image tower with noise on its matrices, a tenth of their own size."""
    generator = torch.Generator().manual_seed(seed)
    model: Any = CLIPModel.from_pretrained(base)
    with torch.no_grad():
        for parameter in model.vision_model.encoder.parameters():
            if parameter.ndim == 2:
                parameter += 0.1 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    model.vision_model.half().save_pretrained(directory)


def write_images(path: Path, count: int, seed: int) -> None:
    """Write coarse noise: uint8 [count, 224, 224, 3]."""
    random = np.random.Generator(np.random.PCG64(seed))
    np.savez(
        path,
        images=random.integers(0, 256, (count, SIDE // 8, SIDE // 8, 3), np.uint8).repeat(8, 1).repeat(8, 2),
    )


def prepare(name: str, shape: Shape, experts: int, samples: int, merge: str, work: Path) -> Path:
    """Return the recipe of a model of this shape; what it names is written beside it, under `name`, where it
    is not there yet.
    """
    base = work / name
    if not base.exists():
        with files.whole(base) as built:
            write_base(shape, built)
    tasks = {}
    for t in range(experts):
        expert, images = work / f"{name}-expert-{t}", work / f"images-{samples}-{t}.npz"
        if not expert.exists():
            with files.whole(expert) as built:
                write_expert(base, built, t + 1)
        if not images.exists():
            write_images(images, samples + LEFT, t)
        tasks[f"task{t}"] = {
            "expert": f"./{expert.name}",
            "calibration": {"path": images.name, "images": "images"},
        }
    recipe = {
        "base_model": f"./{name}",
        "merge_method": merge,
        "tasks": tasks,
        "calibration": {"samples": samples},
    }
    path = work / f"{name}-{experts}-{samples}-{merge}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
