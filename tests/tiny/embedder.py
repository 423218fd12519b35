"""Decoders that embed texts, with random weights and all that stands beside a Qwen3-Embedding."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tests.tiny import decoder

PROMPTS = {"query": "the query is : ", "document": ""}
LONGEST, MIDDLE = 64, 96


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that ends each text with <|endoftext|>, which is what pads, and calls another token
    its end. It pads before texts.
    """
    end, turn = "<|endoftext|>", "<|im_end|>"
    made = decoder.tokenizer().backend_tokenizer
    made.add_special_tokens([turn])
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, made.token_to_id(end))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=turn, pad_token=end, padding_side="left", model_max_length=LONGEST
    )


def write(directory: Path, kind: str = "qwen3", *, pooling: str = "lasttoken", **settings: Any) -> Path:
    """Write a model as its library's class without a head, with its tokenizer and its modules."""
    # The library would make zeros of the embedding of a token that pads, and this one ends each text.
    model: Any = decoder.model(kind, **{"pad_token_id": None, **settings})
    model.model.save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    kinds = ("Transformer", "Pooling", "Normalize")
    _edit(directory / "modules.json", _modules(*kinds))
    modes = ("cls_token", "mean_tokens", "lasttoken")
    _edit(
        directory / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": decoder.WIDTH,
            "include_prompt": True,
            **{f"pooling_mode_{name}": name == pooling for name in modes},
        },
    )
    prompts = {"prompts": PROMPTS, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    _edit(directory / "config_sentence_transformers.json", prompts)
    return directory


def write_gemma(directory: Path, *, dense: bool = True) -> Path:
    """Write a model that looks both ways, in a window that is shorter than most texts, with the mean of its
    tokens and two Dense modules, as EmbeddingGemma; or without these.
    """
    write(directory, "gemma3", pooling="mean_tokens", use_bidirectional_attention=True)
    if not dense:
        return directory
    _edit(directory / "modules.json", _modules("Transformer", "Pooling", "Dense", "Dense", "Normalize"))
    draw = torch.Generator().manual_seed(0)
    for place, given, made in (("2_Dense", decoder.WIDTH, MIDDLE), ("3_Dense", MIDDLE, decoder.WIDTH)):
        activation = "torch.nn.modules.linear.Identity"
        sizes = {"in_features": given, "out_features": made, "bias": False}
        _edit(directory / place / "config.json", {**sizes, "activation_function": activation})
        weight = 0.2 * torch.randn(made, given, generator=draw)
        save_file({"linear.weight": weight}, directory / place / "model.safetensors")
    return directory


WRITERS = {"qwen3": write, "gemma3_text": write_gemma}
"""What writes a model, by the `model_type` of its config."""


def _modules(*kinds: str) -> list[dict[str, object]]:
    places = (f"{i}_{kind}" if i else "" for i, kind in enumerate(kinds))
    return [
        {"idx": i, "name": str(i), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]


def _edit(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
