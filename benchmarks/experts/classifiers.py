"""Train a classifier of MiniLM for each text task, each with a head of its own.

    python -m benchmarks.experts.classifiers --data DATA/text --out CACHE sst2 trec

DATA/text holds a folder a task with `train.tsv.gz`, `test.tsv.gz` (lines `label<TAB>text`) and `labels.json`.
A classifier is transformers' own class (BertForSequenceClassification), trained as a whole but for the
embeddings. The last 500 training lines are left out, for choosing settings on. A finished expert is skipped,
so an interrupted run goes on.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.commands import parser
from benchmarks.experts import training
from benchmarks.experts.text_tasks import HELD_OUT, lines, packaged_base
from benchmarks.experts.training import Settings
from epmq_export import files
from epmq_export.models.precision import fast_bfloat16

MAX_LENGTH = 48


def train(base: Path, folder: Path, out: Path, given: Settings) -> None:
    """Train the classifier of the task in `folder`."""
    torch.manual_seed(given.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    names = dict(enumerate(json.loads((folder / "labels.json").read_text())))
    model: nn.Module = AutoModelForSequenceClassification.from_pretrained(
        base, id2label=names, label2id={name: place for place, name in names.items()}
    )
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".embeddings." not in name
    rows, order = lines(folder / "train.tsv.gz")[:-HELD_OUT], random.Random(given.seed)

    def scores(texts: list[str]) -> Tensor:
        batch = tokenizer(texts, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16(torch.device("cpu"))):
            found: Tensor = model(**batch).logits
        return found.float()

    def loss(step: int) -> Tensor:
        part = order.sample(rows, given.batch_size)
        return nn.functional.cross_entropy(
            scores([text for _, text in part]), torch.tensor([label for label, _ in part])
        )

    model.train()
    training.fit(folder.name, model, loss, training.linear_descent(model, given, 20), given.steps)
    model.eval()
    judged = lines(folder / "test.tsv.gz")[:300]
    with torch.no_grad():
        found = torch.cat([scores([text]) for _, text in judged]).argmax(1)
    right = (found == torch.tensor([label for label, _ in judged])).float().mean()
    print(f"{folder.name}: accuracy {float(right):.3f} on {len(judged)} test lines", flush=True)
    with files.whole(out) as built:
        model.save_pretrained(built)  # type: ignore[operator]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("experts.classifiers", __doc__)
    options.add_argument("tasks", nargs="+")
    training.add_options(options, "100", 16, "3e-4")
    options.add_argument(
        "--base",
        type=Path,
        default=None,
        help="an encoder's directory; default: the packaged all-MiniLM-L6-v2",
    )
    given = options.parse_args(arguments)
    base, asked = given.base or packaged_base(), training.settings(given, 100, 3e-4)
    given.out.mkdir(parents=True, exist_ok=True)
    for task in training.unfinished(given.tasks, given.out):
        train(base, given.data / task, given.out / task, asked)


if __name__ == "__main__":
    main()
