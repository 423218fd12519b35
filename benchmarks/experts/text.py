"""Train one expert of a sentence encoder for each text task, against a frozen head of label embeddings.

    python -m benchmarks.experts.text --data DATA/text --out CACHE/full sst2 trec ...
    python -m benchmarks.experts.text --data DATA/text --out CACHE/lora --lora 8 sst2 trec ...

DATA/text holds a folder a task with `train.tsv.gz`, `test.tsv.gz` (lines `label<TAB>text`) and `labels.json`.
The head is the base's own embedding of each label's name, as CLIP builds its zero-shot heads: only the
encoder learns, so the experts share every part that a merge does not touch. The base's default prompt, if it
has one, stands before every text and name, as sentence-transformers and epmq put it. The last 500 training
lines are left out, for choosing settings on. A finished expert is skipped, so an interrupted run goes on.
"""

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.commands import parser
from benchmarks.experts import training
from benchmarks.experts.text_tasks import HELD_OUT, lines, packaged_base
from benchmarks.experts.training import Settings
from epmq_export import files
from epmq_export.installed import registry
from epmq_export.models.precision import fast_bfloat16
from epmq_export.tensors.modules import LENGTHS, MODULES, PROMPTS

SCALE = 20.0  # logits = SCALE * cosine, the temperature that all-MiniLM itself was trained with
MAX_LENGTH = 96


def embed(model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Tensor:
    """Return mean-pooled sentence embeddings of unit length, float32 [len(texts), hidden]."""
    batch = tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
    batch = batch.to(next(model.parameters()).device)
    hidden = model(**batch).last_hidden_state.float()
    mask = batch["attention_mask"].unsqueeze(-1).float()
    return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


@torch.no_grad()
def accuracy(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, head: Tensor, rows: list[tuple[int, str]]
) -> float:
    """Return the share of rows whose label's embedding is the nearest."""
    model.eval()
    right = 0
    for start in range(0, len(rows), 64):
        part = rows[start : start + 64]
        predicted = (embed(model, tokenizer, [text for _, text in part]) @ head.T).argmax(-1).cpu()
        right += int((predicted == torch.tensor([label for label, _ in part])).sum())
    return right / len(rows)


def train(base: Path, folder: Path, out: Path, given: Settings, rank: int) -> None:
    """Train an expert of the task in `folder`: a LoRA adapter of a rank, or, with 0, all of the encoder."""
    torch.manual_seed(given.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    model: nn.Module = AutoModel.from_pretrained(base).to(given.device)
    prompts = registry().open_family(base).zero_shot
    before = "" if prompts is None else prompts.prompts.default
    names = [before + name.replace("_", " ") for name in json.loads((folder / "labels.json").read_text())]
    with torch.no_grad():
        model.eval()
        head = embed(model, tokenizer, names)
    if rank:
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules=["query", "key", "value", "dense"],
            exclude_modules="pooler.dense",
        )
        model = get_peft_model(model, config)
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith("encoder.")
    rows, judged = (
        [(label, before + text) for label, text in lines(folder / f"{split}.tsv.gz")]
        for split in ("train", "test")
    )
    rows = rows[:-HELD_OUT]
    order = random.Random(given.seed)

    def loss(step: int) -> Tensor:
        part = order.sample(rows, given.batch_size)
        with torch.autocast(given.device.type, torch.bfloat16, enabled=fast_bfloat16(given.device)):
            logits = SCALE * embed(model, tokenizer, [text for _, text in part]) @ head.T
        labels = torch.tensor([label for label, _ in part], device=given.device)
        return nn.functional.cross_entropy(logits.float(), labels)

    model.train()
    training.fit(folder.name, model, loss, training.linear_descent(model, given, 20), given.steps)
    score = accuracy(model, tokenizer, head, judged[:300])
    print(f"{folder.name}: accuracy {score:.3f} on 300 test lines", flush=True)
    if rank:
        training.save_adapter(model, out)
    else:
        _save(model, tokenizer, base, out)


def _save(model: nn.Module, tokenizer: PreTrainedTokenizerBase, base: Path, out: Path) -> None:
    """Keep a whole model, with what the base says of pooling and prompts."""
    with files.whole(out) as built:
        model.save_pretrained(built)  # type: ignore[operator]
        tokenizer.save_pretrained(built)
        for name in (MODULES, LENGTHS, PROMPTS, "1_Pooling"):
            source = base / name
            if source.is_dir():
                shutil.copytree(source, built / name, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy(source, built / name)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("experts.text", __doc__)
    options.add_argument("tasks", nargs="+")
    training.add_options(options, "200", 32, "8e-5, with --lora 1e-3")
    training.add_device(options)
    options.add_argument(
        "--base",
        type=Path,
        default=None,
        help="a sentence encoder's directory; default: the packaged all-MiniLM-L6-v2",
    )
    options.add_argument(
        "--lora",
        type=int,
        default=0,
        metavar="RANK",
        help="train a LoRA adapter of this rank; 0: every encoder weight",
    )
    given = options.parse_args(arguments)
    base, asked = given.base or packaged_base(), training.settings(given, 200, 1e-3 if given.lora else 8e-5)
    for task in training.unfinished(given.tasks, given.out):
        train(base, given.data / task, given.out / task, asked, given.lora)


if __name__ == "__main__":
    main()
