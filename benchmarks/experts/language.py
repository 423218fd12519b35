"""Train one LoRA expert of a language model for each text task, as instructions: language_tasks.py has the
prompts.

A T5 is asked those of T5_TASKS.

    python -m benchmarks.experts.language --base MODEL --data DATA/text --out CACHE sst2 ag_news ...

DATA/text holds a folder a task with `train.tsv.gz` and `test.tsv.gz`, lines `label<TAB>text`. An expert
learns the answer's tokens and nothing of the prompt's. The last 500 training lines are left out. A finished
expert is skipped, so an interrupted run goes on.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from benchmarks.commands import parser
from benchmarks.experts import training
from benchmarks.experts.language_tasks import T5_TASKS, TASKS, LanguageTask
from benchmarks.experts.text_tasks import HELD_OUT, lines
from benchmarks.experts.training import Settings

MAX_LENGTH = 96
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
T5_LINEARS = ["q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"]


def answer_logits(
    model: Any,  # noqa: ANN401
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    answers: list[str],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scores of the answers' tokens, float32 [tokens, vocabulary], these tokens, and the number of
    the prompt that each belongs to, int64 [tokens].
    """
    if model.config.is_encoder_decoder:
        return _in_halves(model, tokenizer, prompts, answers)
    encoded = []
    for prompt, answer in zip(prompts, answers, strict=True):
        question, reply = (
            tokenizer(prompt)["input_ids"],
            tokenizer(answer, add_special_tokens=False)["input_ids"],
        )
        encoded.append((question[-MAX_LENGTH:], reply))
    length = max(len(question) + len(reply) for question, reply in encoded)
    ids, mask = (
        torch.zeros(len(encoded), length, dtype=torch.int64),
        torch.zeros(len(encoded), length, dtype=torch.int64),
    )
    rows: list[int] = []
    places: list[int] = []
    targets: list[int] = []
    for row, (question, reply) in enumerate(encoded):
        whole = question + reply
        ids[row, : len(whole)] = torch.tensor(whole)
        mask[row, : len(whole)] = 1
        rows += [row] * len(reply)
        places += range(len(question) - 1, len(whole) - 1)
        targets += reply
    hidden = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    return model.lm_head(hidden[rows, places]).float(), torch.tensor(targets), torch.tensor(rows)


def _in_halves(
    model: Any,  # noqa: ANN401
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    answers: list[str],
) -> tuple[Tensor, Tensor, Tensor]:
    """Do the same for a model of two halves: its answers have the tokens that end them, and questions
    are cut at their ends.
    """
    given = tokenizer(prompts, padding=True, truncation=True, max_length=2 * MAX_LENGTH, return_tensors="pt")
    replies = tokenizer(answers, padding=True, return_tensors="pt")
    labels = replies["input_ids"].masked_fill(replies["attention_mask"] == 0, -100)
    logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"], labels=labels).logits
    scored = labels != -100
    return logits[scored].float(), labels[scored], scored.nonzero()[:, 0]


@torch.no_grad()
def accuracy(
    model: Any,  # noqa: ANN401
    tokenizer: PreTrainedTokenizerBase,
    task: LanguageTask,
    rows: list[tuple[int, str]],
) -> float:
    """Return the share of rows whose likeliest answer is the right one."""
    right = 0
    for start in range(0, len(rows), 16):
        part = rows[start : start + 16]
        prompts = [task.asked(text) for _, text in part for _ in task.answers]
        logits, targets, owners = answer_logits(model, tokenizer, prompts, list(task.answers) * len(part))
        likelihood = torch.zeros(len(prompts)).index_add(
            0, owners, logits.log_softmax(1)[torch.arange(len(targets)), targets]
        )
        right += int(
            (likelihood.view(len(part), -1).argmax(1) == torch.tensor([label for label, _ in part])).sum()
        )
    return right / len(rows)


def train(base: Path, folder: Path, out: Path, given: Settings, rank: int) -> None:
    """Train a LoRA adapter of a rank on the answers of the task in `folder`."""
    torch.manual_seed(given.seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    halves = AutoConfig.from_pretrained(base).is_encoder_decoder
    task, kind = (
        (T5_TASKS[folder.name], AutoModelForSeq2SeqLM)
        if halves
        else (TASKS[folder.name], AutoModelForCausalLM)
    )
    model: Any = kind.from_pretrained(base, dtype=torch.float32)
    targets = [
        name
        for name in (T5_LINEARS if halves else LINEARS)
        if any(path.endswith(f".{name}") for path, _ in model.named_modules())
    ]
    adapted: Any = get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets))
    rows = lines(folder / "train.tsv.gz")
    rows, held = rows[:-HELD_OUT], rows[-HELD_OUT:][:100]
    order = random.Random(given.seed)

    def loss(step: int) -> Tensor:
        part = order.sample(rows, given.batch_size)
        prompts, answers = [task.asked(text) for _, text in part], [task.answers[label] for label, _ in part]
        logits, expected, _ = answer_logits(model, tokenizer, prompts, answers)
        return nn.functional.cross_entropy(logits, expected)

    def report(who: str) -> None:
        score = accuracy(model, tokenizer, task, held)
        print(f"{folder.name}: {who} accuracy {score:.3f} on 100 held-out lines", flush=True)

    report("base")
    training.fit(folder.name, adapted, loss, training.linear_descent(adapted, given, 10), given.steps)
    report("expert")
    training.save_adapter(adapted, out)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("experts.language", __doc__)
    options.add_argument("tasks", nargs="+", choices=[*dict.fromkeys([*TASKS, *T5_TASKS])])
    options.add_argument("--base", type=Path, required=True)
    training.add_options(options, "80", 16, "4e-4")
    options.add_argument("--rank", type=int, default=16)
    given = options.parse_args(arguments)
    for task in training.unfinished(given.tasks, given.out):
        asked = training.settings(given, 80, 4e-4)
        train(given.base, given.data / task, given.out / task, asked, given.rank)


if __name__ == "__main__":
    main()
