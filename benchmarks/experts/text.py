"""Train one expert of a sentence encoder for each text task, against a frozen head of label embeddings.

    python -m benchmarks.experts.text --data DATA/text --out CACHE/full sst2 trec ...
    python -m benchmarks.experts.text --data DATA/text --out CACHE/lora --lora 8 sst2 trec ...

DATA/text holds a folder a task with `train.tsv.gz`, `test.tsv.gz` (lines `label<TAB>text`) and `labels.json`.
The head is the base's own embedding of each label's name, as CLIP builds its zero-shot heads: only the
encoder learns, so the experts share every part that a merge does not touch. The last 500 training lines are
left out, for choosing settings on. A finished expert is skipped, so an interrupted run goes on.
"""

import argparse
import json
import random
import shutil
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.experts.text_tasks import HELD_OUT, lines, packaged_base

SCALE = 20.0  # logits = SCALE * cosine, the temperature that all-MiniLM itself was trained with
MAX_LENGTH = 96


def embed(model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Tensor:
    """Mean-pooled, unit-length sentence embeddings, [len(texts), hidden]."""
    batch = tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    hidden = model(**batch).last_hidden_state.float()
    mask = batch["attention_mask"].unsqueeze(-1).float()
    return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


@torch.no_grad()
def accuracy(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, head: Tensor, rows: list[tuple[int, str]]
) -> float:
    model.eval()
    right = 0
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        predicted = (embed(model, tokenizer, [text for _, text in part]) @ head.T).argmax(-1)
        right += int((predicted == torch.tensor([label for label, _ in part])).sum())
    return right / len(rows)


def train(
    base: Path, folder: Path, out: Path, steps: int, batch_size: int, rate: float, lora: int, seed: int
) -> None:
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model: nn.Module = AutoModel.from_pretrained(base)
    names = [name.replace("_", " ") for name in json.loads((folder / "labels.json").read_text())]
    with torch.no_grad():
        model.eval()
        head = embed(model, tokenizer, names)
    if lora:
        config = LoraConfig(
            r=lora,
            lora_alpha=2 * lora,
            target_modules=["query", "key", "value", "dense"],
            exclude_modules="pooler.dense",
        )
        model = get_peft_model(model, config)
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith("encoder.")
    rows = lines(folder / "train.tsv.gz")[:-HELD_OUT]
    optimiser = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / 20, (steps - step) / steps)
    )
    order = random.Random(seed)
    started, running = time.monotonic(), 0.0
    for step in range(steps):
        model.train()
        part = order.sample(rows, batch_size)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = SCALE * embed(model, tokenizer, [text for _, text in part]) @ head.T
        loss = nn.functional.cross_entropy(logits.float(), torch.tensor([label for label, _ in part]))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        running = 0.95 * running + 0.05 * loss.item()
        if step % 50 == 49:
            print(
                f"{folder.name} step {step + 1}/{steps} loss {running / (1 - 0.95 ** (step + 1)):.3f}",
                flush=True,
            )
    score = accuracy(model, tokenizer, head, lines(folder / "test.tsv.gz")[:300])
    print(
        f"{folder.name}: accuracy {score:.3f} on 300 test lines, {time.monotonic() - started:.0f} s",
        flush=True,
    )
    partial = out.with_name(out.name + ".partial")
    model.save_pretrained(partial)  # type: ignore[operator]
    if lora:
        weights = partial / "adapter_model.safetensors"
        save_file({k: v.half() for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
        (partial / "README.md").unlink(missing_ok=True)
    else:
        tokenizer.save_pretrained(partial)
        for name in ("modules.json", "sentence_bert_config.json", "1_Pooling"):
            source = base / name
            if source.is_dir():
                shutil.copytree(source, partial / name, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy(source, partial / name)
    partial.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--base",
        type=Path,
        default=None,
        help="a sentence encoder's directory; default: the packaged all-MiniLM-L6-v2",
    )
    parser.add_argument(
        "--lora",
        type=int,
        default=0,
        metavar="RANK",
        help="train a LoRA adapter of this rank; 0: every encoder weight",
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rate", type=float, default=None, help="default 8e-5, with --lora 1e-3")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    base = given.base or packaged_base()
    rate = given.rate or (1e-3 if given.lora else 8e-5)
    given.out.mkdir(parents=True, exist_ok=True)
    for task in given.tasks:
        if (given.out / task).exists():
            print(f"{task}: already there")
        else:
            train(
                base,
                given.data / task,
                given.out / task,
                given.steps,
                given.batch_size,
                rate,
                given.lora,
                given.seed,
            )


if __name__ == "__main__":
    main()
