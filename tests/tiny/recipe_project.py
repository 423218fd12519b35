"""Small models, experts and tasks, written by code, for tests of the whole chain.

The words are made up, and each task's classes have words of their own. An encoder with random weights gives
texts that share words outputs that point the same way, so label texts work as heads and accuracies are high:
a broken file shows as a drop.
"""

import itertools
import json
import random
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertModel
from transformers.models.bert import BertTokenizer

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SYLLABLES = tuple(a + b for a, b in itertools.product("bdfgklmnprstv", "aeiou"))
WORDS = tuple(random.Random(0).sample([a + b for a, b in itertools.product(SYLLABLES, SYLLABLES)], 850))
LETTERS = (*string.ascii_lowercase, *string.digits, *".,!?'-")
VOCABULARY = (
    *SPECIALS,
    *LETTERS,
    *(f"##{letter}" for letter in LETTERS),
    *WORDS,
    *(f"##{syllable}" for syllable in SYLLABLES),
)
# The first words belong to classes, ten to each; the others to none.
_OF_A_CLASS = 10


def class_words(task: int, label: int) -> Sequence[str]:
    start = (4 * task + label) * _OF_A_CLASS
    return WORDS[start : start + _OF_A_CLASS]


def base(
    directory: Path,
    *,
    width: int = 128,
    layers: int = 3,
    heads: int = 4,
    pooling: str = "mean",
    vocabulary: Sequence[str] = VOCABULARY,
) -> Path:
    """Write a sentence encoder with random weights: config, safetensors, WordPiece tokenizer, pooling."""
    torch.manual_seed(width)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=2 * width,
        max_position_embeddings=64,
        initializer_range=0.05,
    )
    BertModel(config).save_pretrained(directory)
    _companions(directory, vocabulary, pooling)
    return directory


def full_expert(
    directory: Path, base: Path, seed: int, *, shards: bool = False, vocabulary: Sequence[str] = VOCABULARY
) -> Path:
    """Write the base with noise on every matrix of its layers, and its own tokenizer beside it."""
    torch.manual_seed(seed)
    model = BertModel.from_pretrained(base)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("encoder") and parameter.ndim == 2:
                parameter.add_(torch.randn_like(parameter), alpha=0.01)
    model.save_pretrained(directory, max_shard_size="600KB" if shards else "5GB")
    pooling = json.loads((base / "1_Pooling" / "config.json").read_text())["pooling_mode"]
    _companions(directory, vocabulary, pooling)
    return directory


def lora_expert(directory: Path, base: Path, seed: int) -> Path:
    """Write a PEFT adapter on the base, as PEFT writes it, rank-stabilised."""
    torch.manual_seed(seed)
    settings = LoraConfig(
        r=4, lora_alpha=8, use_rslora=True, target_modules=["query", "value", "intermediate.dense"]
    )
    model = get_peft_model(BertModel.from_pretrained(base), settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    model.save_pretrained(str(directory))
    return directory


def texts(task: int, count: int, seed: int) -> list[tuple[int, str]]:
    """Return labels 0..2 and distinct texts of a task: words of the class among words of none."""
    draw = random.Random(f"{task} {seed}")
    found: dict[str, int] = {}
    while len(found) < count:
        label = len(found) % 3
        words = [*draw.sample(class_words(task, label), 5), *draw.sample(WORDS[400:], 2)]
        draw.shuffle(words)
        found.setdefault(" ".join(words) + draw.choice(".!?"), label)
    return [(label, text) for text, label in found.items()]


def label_texts(task: int) -> list[str]:
    return [" ".join(class_words(task, label)) for label in range(3)]


def data(directory: Path) -> Path:
    """Write `N.txt` to calibrate on and `N.tsv` to judge by, for tasks 0 to 3, and `2.labels.json`."""
    directory.mkdir(parents=True, exist_ok=True)
    for task in range(4):
        (directory / f"{task}.txt").write_text("".join(f"{text}\n" for _, text in texts(task, 40, seed=1)))
        (directory / f"{task}.tsv").write_text(
            "".join(
                f"{label if task == 0 else f'c{label}'}\t{text}\n" for label, text in texts(task, 60, seed=2)
            )
        )
    (directory / "2.labels.json").write_text(
        json.dumps({f"c{label}": text for label, text in enumerate(label_texts(2))})
    )
    return directory


@dataclass(frozen=True)
class Project:
    """A base, experts of it, data and a recipe in one directory."""

    directory: Path

    @property
    def recipe(self) -> Path:
        return self.directory / "recipe.yaml"

    def variant(self, place: Path, **changes: object) -> Path:
        """Write the recipe at `place` with other top-level values (None: without that key), and its paths
        made absolute.
        """
        content = {**yaml.safe_load(self.recipe.read_text()), **changes}
        content = {key: value for key, value in content.items() if value is not None}
        place.write_text(yaml.safe_dump(_absolute(content, self.directory), sort_keys=False))
        return place

    def one_task(self, place: Path, **changes: object) -> Path:
        """Write the recipe with its first task alone, and other values for it."""
        task = yaml.safe_load(self.recipe.read_text())["tasks"]["list"]
        return self.variant(place, tasks={"list": {**task, **changes}})


def project(directory: Path) -> Project:
    """Write a project of four tasks: labels as a list, a mapping and a JSON file, and none; full experts, one
    of them in shards, and adapters.
    """
    model = base(directory / "base")
    full_expert(directory / "sharded", model, 1, shards=True)
    lora_expert(directory / "adapter", model, 2)
    full_expert(directory / "whole", model, 3)
    lora_expert(directory / "other", model, 4)
    data(directory / "data")
    texts = {f"c{label}": text for label, text in enumerate(label_texts(1))}
    tasks: dict[str, Any] = {
        "list": {
            "expert": "./sharded",
            "calibration": "data/0.txt",
            "evaluation": "data/0.tsv",
            "labels": label_texts(0),
        },
        "mapping": {
            "expert": "./adapter",
            "calibration": "data/1.txt",
            "evaluation": "data/1.tsv",
            "labels": texts,
        },
        "file": {
            "expert": "./whole",
            "calibration": "data/2.txt",
            "evaluation": "data/2.tsv",
            "labels": "data/2.labels.json",
        },
        "unlabelled": {"expert": "./other", "calibration": "data/3.txt"},
    }
    recipe = {"base_model": "./base", "tasks": tasks, "calibration": {"samples": 16}}
    (directory / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return Project(directory)


def _absolute(value: object, directory: Path) -> object:
    if isinstance(value, dict):
        return {key: _absolute(item, directory) for key, item in value.items()}
    if isinstance(value, list):
        return [_absolute(item, directory) for item in value]
    return str(directory / value) if isinstance(value, str) and value.startswith(("./", "data/")) else value


def _companions(directory: Path, vocabulary: Sequence[str], pooling: str) -> None:
    tokenizer = BertTokenizer(
        vocab={token: row for row, token in enumerate(vocabulary)}, do_lower_case=True, model_max_length=64
    )
    tokenizer.save_pretrained(directory)
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
