"""Train one LoRA expert of a language model for each text task, as instructions: language_tasks.py has the
prompts.

A T5 is asked those of T5_TASKS.

    python -m benchmarks.experts.language --base MODEL --data DATA/text --out CACHE sst2 ag_news ...

DATA/text holds a folder a task with `train.tsv.gz` and `test.tsv.gz`, lines `label<TAB>text`. An expert
learns the answer's tokens and nothing of the prompt's. The last 500 training lines are left out. A finished
expert is skipped, so an interrupted run goes on.
"""

import argparse
import random
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from benchmarks.experts.language_tasks import T5_TASKS, TASKS, LanguageTask
from benchmarks.experts.text_tasks import HELD_OUT, lines

MAX_LENGTH = 96
LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
T5_LINEARS = ["q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"]


def answer_logits(
    model: Any,  # noqa: ANN401
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    answers: list[str],
) -> tuple[Tensor, Tensor, Tensor]:
    """The scores [tokens, vocabulary] of the answers' tokens, these, and which prompt each belongs to."""
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
    """With the tokens that end the answers; questions are cut at their ends."""
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
    """Of the likeliest answer."""
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


def train(
    base: Path, folder: Path, out: Path, steps: int, batch_size: int, rate: float, rank: int, seed: int
) -> None:
    torch.manual_seed(seed)
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
    print(
        f"{folder.name}: base accuracy {accuracy(model, tokenizer, task, held):.3f} on 100 held-out lines",
        flush=True,
    )
    learning = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / 10, (steps - step) / steps)
    )
    order, started = random.Random(seed), time.monotonic()
    for step in range(steps):
        part = order.sample(rows, batch_size)
        prompts, answers = [task.asked(text) for _, text in part], [task.answers[label] for label, _ in part]
        logits, expected, _ = answer_logits(model, tokenizer, prompts, answers)
        loss = nn.functional.cross_entropy(logits, expected)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimiser.step()
        schedule.step()
        if step % 10 == 9:
            print(
                (
                    f"{folder.name} step {step + 1}/{steps} loss {loss.item():.3f} "
                    f"{time.monotonic() - started:.0f} s"
                ),
                flush=True,
            )
    print(
        (
            f"{folder.name}: accuracy {accuracy(model, tokenizer, task, held):.3f} on 100 held-out lines, "
            f"{time.monotonic() - started:.0f} s"
        ),
        flush=True,
    )
    partial = out.with_name(out.name + ".partial")
    adapted.save_pretrained(partial)
    weights = partial / "adapter_model.safetensors"
    save_file(
        {name: value.half() for name, value in load_file(weights).items()}, weights, metadata={"format": "pt"}
    )
    partial.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="+", choices=[*dict.fromkeys([*TASKS, *T5_TASKS])])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    for task in given.tasks:
        if (given.out / task).exists():
            print(f"{task}: already there")
        else:
            train(
                given.base,
                given.data / task,
                given.out / task,
                given.steps,
                given.batch_size,
                given.rate,
                given.rank,
                given.seed,
            )


if __name__ == "__main__":
    main()
