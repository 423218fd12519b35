"""A CLIP of OpenAI's architecture with random weights, as small as clip.cpp takes one: 12 + 12 layers, by
whose number it knows a file.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from converters import open_family
from epmq_export.grids import GRIDS
from epmq_export.models.family import halves
from epmq_export.tensors import packed_writer as packing
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.tensors.source import renamed
from tests.tiny.packed_index import an_index

SIDE, PATCH, LAYERS, WIDTH, HEADS, CONTEXT, PROJECTION = 32, 8, 12, 64, 2, 20, 32
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = (
    "a",
    "photo",
    "of",
    "the",
    "cat",
    "dog",
    "red",
    "green",
    "blue",
    "round",
    "square",
    "noise",
    "stripes",
)


def tokenizer() -> CLIPTokenizer:
    """Make byte-level BPE with `</w>` in the order of OpenAI's vocabulary: bytes, bytes that end a word,
    merges, the two special tokens.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = dict.fromkeys(
        (word[:at], word[at] + ("</w>" if at == len(word) - 1 else ""))
        for word in WORDS
        for at in range(1, len(word))
    )  # each word from its left end
    tokens = dict.fromkeys(
        [*alphabet, *(byte + "</w>" for byte in alphabet), *("".join(pair) for pair in merges), START, END]
    )
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=list(merges),
        model_max_length=CONTEXT,
    )


def clip(
    directory: Path,
    *,
    act: str = "quick_gelu",
    seed: int = 0,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
) -> Path:
    """Write a model directory: config, weights, tokenizer, image processor. `text` and `vision` change the
    towers' configs.
    """
    directory.mkdir(parents=True, exist_ok=True)
    words = tokenizer()
    start, end = words.convert_tokens_to_ids([START, END])
    tower = {
        "num_hidden_layers": LAYERS,
        "hidden_act": act,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_attention_heads": HEADS,
    }
    texts = {
        **tower,
        "vocab_size": len(words),
        "max_position_embeddings": CONTEXT,
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    images = {**tower, "image_size": SIDE, "patch_size": PATCH}
    torch.manual_seed(seed)
    model = CLIPModel(
        CLIPConfig(
            text_config={**texts, **(text or {})},
            vision_config={**images, **(vision or {})},
            projection_dim=PROJECTION,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases that do something
            parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    words.save_pretrained(directory)
    side = (vision or {}).get("image_size", SIDE)
    CLIPImageProcessorPil(
        size={"shortest_edge": side}, crop_size={"height": side, "width": side}
    ).save_pretrained(directory)
    return directory


def vision_expert(directory: Path, base: Path, seed: int, prefix: bool = True) -> Path:
    """Write the base's image tower alone, with noise on its matrices, under CLIPModel's names or
    (`prefix=False`) under the tower's own.
    """
    torch.manual_seed(seed)
    tensors = {}
    for name, value in load_file(base / "model.safetensors").items():
        if name.startswith("vision_model."):
            noisy = value + 0.3 * value.std() * torch.randn_like(value) if value.ndim > 1 else value
            tensors[name if prefix else name.removeprefix("vision_model.")] = noisy
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    for place in base.iterdir():
        if place.name != "model.safetensors":
            (directory / place.name).write_bytes(place.read_bytes())
    return directory


def packed(
    directory: Path, *, grid: str | Sequence[str] | None = "Q4_0", place: Path | None = None
) -> Packed:
    """Pack the model's weights at `place` (default: DIRECTORY-packed): the image tower's linears on a grid
    (several: each in its turn; None: nothing on a grid), the rest of both towers' matrices in half precision.
    """
    place = place or directory.with_name(f"{directory.name}-packed")
    family = open_family(directory)
    source = renamed(open_checkpoint(directory), family.canonical)
    grids = [grid] if isinstance(grid, str) else list(grid or [])
    tensors: dict[str, PackedTensor | torch.Tensor] = {}
    for turn, name in enumerate(source.names()):
        value = source.load(name).float()
        linear = ".layers." in name and value.ndim == 2
        if linear and grids and name.startswith("vision_model."):
            taken = GRIDS[grids[turn % len(grids)]]
            tensors[name] = PackedTensor(taken, *taken.quantise(value))
        else:
            half = (
                name in halves(family)
                or name in family.embeddings
                or (linear and name.startswith("text_model."))
            )
            tensors[name] = value.half() if half else value
    packing.write(place, tensors, an_index("clip"), directory)
    return Packed(place)
