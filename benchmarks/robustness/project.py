"""A small project on disk: a sentence encoder with random weights, experts near it, texts and recipes."""

import itertools
import json
from pathlib import Path

import torch
import yaml
from transformers import BertConfig, BertModel
from transformers.models.bert import BertTokenizer

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SYLLABLES = tuple(a + b for a, b in itertools.product("bdfgklmnprstv", "aeiou"))
WORDS = tuple(a + b for a, b in itertools.product(SYLLABLES[:20], SYLLABLES))
VOCABULARY = (*SPECIALS, *WORDS, *SYLLABLES, *(f"##{each}" for each in SYLLABLES))
TASKS = ("first", "second")


def make(directory: Path) -> Path:
    """Write the base, an expert and texts for each of TASKS. Return the directory."""
    _model(directory / "base", seed=0, moved=0.0)
    for number, task in enumerate(TASKS, 1):
        _model(directory / task, seed=number, moved=0.02)
        lines = [" ".join(WORDS[(7 * i + 13 * k * number) % len(WORDS)] for k in range(6)) for i in range(24)]
        (directory / f"{task}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return directory


def recipe(directory: Path, name: str, **settings: object) -> Path:
    """Write a recipe of the project at NAME.yaml, with other keys at its top."""
    tasks = {task: {"expert": f"./{task}", "calibration": f"{task}.txt"} for task in TASKS}
    content = {"base_model": "./base", "tasks": tasks, "calibration": {"samples": 8}, **settings}
    place = directory / f"{name}.yaml"
    place.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return place


def _model(directory: Path, seed: int, moved: float) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=32,
        initializer_range=0.05,
    )
    model = BertModel(config)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=moved)
    model.save_pretrained(directory)
    tokens = {token: row for row, token in enumerate(VOCABULARY)}
    BertTokenizer(vocab=tokens, do_lower_case=True, model_max_length=32).save_pretrained(directory)
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "mean"}))
