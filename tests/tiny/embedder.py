"""Decoders that embed texts, with random weights and all that stands beside a Qwen3-Embedding."""

import json
from pathlib import Path
from typing import Any

from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tests.tiny import decoder

PROMPTS = {"query": "the query is : ", "document": ""}
LONGEST = 64


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
    modules = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (name, path) in enumerate(modules.items())
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": decoder.WIDTH,
            "include_prompt": True,
            **{f"pooling_mode_{name}": name == pooling for name in ("cls_token", "mean_tokens", "lasttoken")},
        },
        "config_sentence_transformers.json": {
            "prompts": PROMPTS,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    return directory
