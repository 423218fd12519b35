"""FLAN-T5 on GLUE: one list of the tasks that its files share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wording import quoted


@dataclass(frozen=True)
class Task:
    """A task of GLUE, and how it is put into words. The answers are those that the public experts were
    taught.
    """

    name: str
    """Its config on the hub, too, and the end of the expert's name."""

    columns: Sequence[str]
    prompt: str
    answers: Mapping[str, str]
    """The answers by the data set's own names of the classes, in their order. None for numbers, which are
    correlated.
    """

    test: str = "validation"
    """GLUE keeps the truth of its test splits to itself."""


YES_NO = "Answer yes or no."
TASKS = (
    Task(
        "cola",
        ["sentence"],
        "Is this sentence grammatical English? {} Answer acceptable or unacceptable.",
        {"unacceptable": "unacceptable", "acceptable": "acceptable"},
    ),
    Task(
        "mnli",
        ["premise", "hypothesis"],
        (
            "Premise: {premise} Hypothesis: {hypothesis} How does the hypothesis stand to the premise? "
            "Answer "
            "entailment, neutral or contradiction."
        ),
        {"entailment": "entailment", "neutral": "neutral", "contradiction": "contradiction"},
        "validation_matched",
    ),
    Task(
        "mrpc",
        ["sentence1", "sentence2"],
        f"First sentence: {{sentence1}} Second sentence: {{sentence2}} Do they say the same? {YES_NO}",
        {"not_equivalent": "no", "equivalent": "yes"},
    ),
    Task(
        "qnli",
        ["question", "sentence"],
        f"Question: {{question}} Text: {{sentence}} Is the question answered by the text? {YES_NO}",
        {"entailment": "yes", "not_entailment": "no"},
    ),
    Task(
        "qqp",
        ["question1", "question2"],
        (
            f"First question: {{question1}} Second question: {{question2}} Do both ask for the same thing? "
            f"{YES_NO}"
        ),
        {"not_duplicate": "no", "duplicate": "yes"},
    ),
    Task(
        "rte",
        ["sentence1", "sentence2"],
        f"Text: {{sentence1}} Claim: {{sentence2}} Does the claim follow from the text? {YES_NO}",
        {"entailment": "yes", "not_entailment": "no"},
    ),
    Task(
        "sst2",
        ["sentence"],
        "Film review: {} Is its verdict positive or negative?",
        {"negative": "negative", "positive": "positive"},
    ),
    Task(
        "stsb",
        ["sentence1", "sentence2"],
        (
            "First sentence: {sentence1} Second sentence: {sentence2} How alike is their meaning, from "
            "1 (not "
            "at all) to 5 (the same)?"
        ),
        {},
    ),
)


class Kind(NamedTuple):
    title: str
    ending: str
    """The end of the experts' names."""

    sizes: str


class Rule(NamedTuple):
    title: str
    lines: Sequence[str]
    published: str


FULL = Kind("full fine-tuned experts", "", "the base and each expert 1 GB")
LORA = Kind("LoRA experts of rank 16", "_lora-16", "the base 1 GB, each expert a few MB")
TA = Rule(
    "task arithmetic",
    ["merge_method: task_arithmetic", "parameters: {lambda: 0.3}"],
    "merged 78.9; FeatCal in full precision 85.2",
)
# FusionBench's setting sums what agrees, where the paper takes its mean with lambda 1.
TIES = Rule(
    "TIES", ["merge_method: ties", "parameters: {lambda: 0.3, density: 0.2, normalize: false}"], "merged 79.9"
)
# After which merge, and of which of the experts, is not said where we read it.
PUBLISHED = "after one merge at 4 bits: GPTQ 78.26, E-PMQ 83.34"
FILES = {
    "flan-t5-base-glue-ta.yaml": (FULL, TA),
    "flan-t5-base-glue-ties.yaml": (FULL, TIES),
    "flan-t5-base-glue-lora-ta.yaml": (LORA, TA),
    "flan-t5-base-glue-lora-ties.yaml": (LORA, TIES),
}


def text(name: str) -> str:
    kind, rule = FILES[name]
    lines = [*_comment(name, kind, rule), "", "base_model: google/flan-t5-base", *rule.lines, "tasks:"]
    for task in TASKS:
        lines += _task(task, kind)
    return "\n".join([*lines, *SETTINGS]) + "\n"


SETTINGS = [
    "calibration:",
    (
        "  method: anchored    # ours, the default; the paper's: epmq (its lambda is 0.05 here; "
        "docs/method.md has the quadratic)"
    ),
    "  samples: 128",
    "quantization:",
    "  grid: Q4_0",
]


def _comment(name: str, kind: Kind, rule: Rule) -> Iterator[str]:
    yield f"# FLAN-T5-base, the {len(TASKS)} tasks of GLUE, {kind.title}, merged by {rule.title}."
    yield "# Written by make.py; README.md says what was and was not checked."
    yield "#"
    yield f"# Published: {rule.published}; {PUBLISHED}; base 75.7, experts 86.4."
    yield "# (Percent, averaged over the tasks: exact match, and Spearman's correlation on stsb."
    yield "# E-PMQ: arXiv 2605.16882; FeatCal: 2605.13030; the rest: FusionBench.)"
    yield "#"
    yield f"#     epmq run --dry-run recipes/{name}      # sizes, memory, time; downloads nothing"
    yield f"#     epmq run recipes/{name} -o out"
    yield "#"
    yield (
        "# The calibration takes about 1e15 operations (forecast for texts of 256 tokens, not measured), "
        "3.3 GB of memory besides"
    )
    yield "# Python's; the GGUF file has 0.21 GB, the four of ONNX 0.60, of which a runtime needs two (0.27)."
    yield (
        f"# Downloads {kind.sizes}, and GLUE. The evaluation splits are whole, 60,000 questions of which "
        "40,000 are qqp's, each answered"
    )
    yield (
        '# some six times: split: "validation[:500]" makes it quick. Nothing of the hub was tried, for '
        "want of a network."
    )


def _task(task: Task, kind: Kind) -> Iterator[str]:
    texts = (
        ""
        if task.columns == ["text"]
        else f", texts: {task.columns[0] if len(task.columns) == 1 else '[' + ', '.join(task.columns) + ']'}"
    )
    where = f"dataset: nyu-mll/glue, config: {task.name}"
    yield f"  {task.name}:"
    yield f"    expert: tanganke/flan-t5-base_glue-{task.name}{kind.ending}"
    yield f"    prompt: {quoted(task.prompt)}"
    yield f"    calibration: {{{where}, split: train{texts}}}"
    yield f"    evaluation: {{{where}, split: {task.test}{texts}, labels: label}}"
    if task.answers:
        yield (
            "    labels: "
            f"{{{', '.join(f'{name}: {quoted(answer)}' for name, answer in task.answers.items())}}}"
        )
    yield f"    metric: {'exact_match' if task.answers else 'spearman'}"
