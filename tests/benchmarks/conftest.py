"""A small model with two experts of its own, and data for both tasks."""

import gzip
import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from benchmarks.accuracy.laboratory import Laboratory
from tests.tiny.bert import small_bert

TASKS = ("kind", "place")


@pytest.fixture(scope="session")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    place = tmp_path_factory.mktemp("laboratory")
    base = small_bert(place / "base")
    torch.manual_seed(0)
    weights = BertModel(BertConfig.from_pretrained(base)).state_dict()
    save_file(weights, base / "model.safetensors")
    for task in TASKS:
        expert = small_bert(place / "experts" / task)
        changed = {
            name: value + 0.05 * torch.randn(value.shape) if name.startswith("encoder") else value
            for name, value in weights.items()
        }
        save_file(changed, expert / "model.safetensors")
        data = place / "data" / task
        data.mkdir(parents=True)
        for name, lines in (("train", 20), ("test", 9)):
            text = "".join(
                f"{i % 2}\tthe {task} weather {'good' * (i % 3)} {name} {i}\n" for i in range(lines)
            )
            (data / f"{name}.tsv.gz").write_bytes(gzip.compress(text.encode()))
        (data / "labels.json").write_text(json.dumps(["a_good", "the café"]))
    (place / "recipes").mkdir()
    return Laboratory(place / "recipes", base, place / "experts", place / "data", TASKS, 6, 8)
