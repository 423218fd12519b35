"""A small CLIP of OpenAI's architecture, its tokenizer, and what it gives for images and texts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex as Pattern
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from epmq_export import files

SIZE, PATCH, CONTEXT = 64, 16, 32
LAYERS, WIDTH, HEADS = 12, 192, 3
VOCABULARY = 1024
SPECIAL = ("<|startoftext|>", "<|endoftext|>")
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def tokenizer_of(prompts: Sequence[str], out: Path) -> CLIPTokenizer:
    """Learn CLIP's byte-level BPE with `</w>` from the prompts, and save it in `out`."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Pattern(r"\s+"), " "), normalizers.Lowercase()]
    )
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Pattern(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(prompts, trainer)
    learnt = json.loads(learner.to_str())["model"]
    merges: Any = [tuple(pair) for pair in learnt["merges"]]
    # The order of OpenAI's vocabulary: bytes, bytes that end a word, merges, the two special tokens.
    order = [
        *alphabet,
        *(byte + "</w>" for byte in alphabet),
        *dict.fromkeys("".join(pair) for pair in merges),
    ]
    tokens = {token: index for index, token in enumerate([*dict.fromkeys(order), *SPECIAL])}
    tokenizer = CLIPTokenizer(vocab=tokens, merges=merges, model_max_length=CONTEXT)
    tokenizer.save_pretrained(out)
    return tokenizer


def untrained(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return a model of random weights for the tokenizer."""
    shared = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "hidden_act": "quick_gelu",
    }
    start, end = (tokenizer.convert_tokens_to_ids(token) for token in SPECIAL)
    ids = {
        "vocab_size": len(tokenizer),
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
        "max_position_embeddings": CONTEXT,
    }
    sizes = {"image_size": SIZE, "patch_size": PATCH}
    return CLIPModel(CLIPConfig(text_config=shared | ids, vision_config=shared | sizes, projection_dim=WIDTH))


def scaled(pixels: Tensor) -> Tensor:
    """Return pixels of 0 to 255 as float32 of the scale that the processor gives CLIP."""
    return (
        pixels.float() / 255 - torch.tensor(CLIPImageProcessorPil.image_mean).view(3, 1, 1)
    ) / torch.tensor(CLIPImageProcessorPil.image_std).view(3, 1, 1)


def image_features(model: CLIPModel, pixels: Tensor) -> Tensor:
    """Return features of unit length of scaled images, float32 [images, width]."""
    features = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    return nn.functional.normalize(features.float(), dim=-1)


def text_features(model: CLIPModel, tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Return features of unit length, float32 [texts, width]."""
    batch = tokenizer(list(texts), padding=True, return_tensors="pt")
    features = model.text_projection(model.text_model(**batch).pooler_output)
    return nn.functional.normalize(features.float(), dim=-1)


@torch.no_grad()
def zero_shot(model: CLIPModel, tokenizer: CLIPTokenizer, prompts: list[list[str]]) -> Tensor:
    """Return the mean of each class's unit features of prompts, of unit length: float32 [classes, width]."""
    return torch.stack(
        [nn.functional.normalize(text_features(model, tokenizer, texts).mean(0), dim=0) for texts in prompts]
    )


@torch.no_grad()
def accuracy(model: CLIPModel, head: Tensor, pixels: Tensor, labels: Tensor) -> float:
    """Return the share of images, uint8, whose class's row of the head is the nearest."""
    model.train(False)
    found = [(image_features(model, scaled(part)) @ head.T).argmax(1) for part in torch.split(pixels, 100)]
    return float((torch.cat(found) == labels).float().mean())


def save(model: CLIPModel, tokenizer: CLIPTokenizer, out: Path) -> None:
    """Keep a model as a directory of the hub's kind."""
    with files.whole(out) as built:
        model.save_pretrained(built)
        tokenizer.save_pretrained(built)
        CLIPImageProcessorPil(
            size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
        ).save_pretrained(built)
