"""A CLIP with random weights and towers of two layers, its experts beside it, on disk; a stand-in where the
real number of layers costs only time.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from converters.clip.family import Clip
from epmq_export.models.samples import Picture
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.source import TypedSource, renamed
from tests.tiny.in_memory import InMemory

SIDE, PATCH, WIDTH, CONTEXT, PROJECTION = 32, 16, 64, 24, 32
START, END = "<|startoftext|>", "<|endoftext|>"
TEXT_QUERY = "text_model.encoder.layers.0.self_attn.q_proj.weight"
QUERY = "vision_model.encoder.layers.0.self_attn.q_proj.weight"


def clip(directory: Path, *, act: str = "quick_gelu", seed: int = 0) -> Path:
    """Write a model directory: config, weights, a tokenizer of single bytes, image processor."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet), START, END]
    tokenizer = CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=[], model_max_length=CONTEXT
    )
    start, end = len(tokens) - 2, len(tokens) - 1
    tower: dict[str, Any] = {
        "num_hidden_layers": 2,
        "hidden_act": act,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": 2,
    }
    ids = {
        "vocab_size": len(tokens),
        "max_position_embeddings": CONTEXT,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    torch.manual_seed(seed)
    model = CLIPModel(
        CLIPConfig(
            text_config=tower | ids,
            vision_config={**tower, "image_size": SIDE, "patch_size": PATCH},
            projection_dim=PROJECTION,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases that do something
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(directory)
    return directory


def image_tower(directory: Path, base: Path, seed: int) -> Path:
    """Write an expert as they are published: the base's image tower alone, with noise on its matrices."""
    torch.manual_seed(seed)
    tensors = {
        name: value
        for name, value in load_file(base / "model.safetensors").items()
        if name.startswith("vision_model.")
    }
    directory.mkdir()
    moved = {
        name: value + 0.02 * torch.randn_like(value) if value.ndim == 2 else value
        for name, value in tensors.items()
    }
    save_file(moved, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_bytes((base / "config.json").read_bytes())
    return directory


def whole_expert(directory: Path, base: Path, seed: int) -> Path:
    """Write an expert whose every tensor has moved."""
    torch.manual_seed(seed)
    directory.mkdir()
    tensors = {
        name: value + 0.02 * torch.randn_like(value)
        for name, value in load_file(base / "model.safetensors").items()
    }
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_bytes((base / "config.json").read_bytes())
    return directory


def pictures(count: int, seed: int = 0) -> list[Picture]:
    random = np.random.Generator(np.random.PCG64(seed))
    drawn = [random.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for _ in range(count)]
    return [
        Picture(f"picture {i}", hashlib.sha256(each.tobytes()).hexdigest(), lambda each=each: each)
        for i, each in enumerate(drawn)
    ]  # type: ignore[misc]


@dataclass(frozen=True)
class TinyClip:
    family: Clip
    base: TypedSource


def opened(directory: Path) -> TinyClip:
    family = Clip.open(directory)
    return TinyClip(family, renamed(open_checkpoint(directory), family.canonical))


def moved(base: TypedSource, seed: int) -> InMemory:
    """Return the base with noise on its image tower, its other tensors as they are."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: base.load(name) for name in base.names()}
    noise = {
        name: 0.02 * torch.randn(value.shape, generator=generator)
        for name, value in tensors.items()
        if name.startswith("vision_model.")
    }
    return InMemory(tensors | {name: tensors[name] + value for name, value in noise.items()})
