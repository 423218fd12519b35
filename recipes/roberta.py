"""RoBERTa-base on GLUE: classifiers, each with a head of its own, as the papers of merging have them."""

from collections.abc import Iterator

import glue
from glue import Rule

TA = Rule("task arithmetic", ["merge_method: task_arithmetic", "parameters: {lambda: 0.3}"], "")
TIES = Rule("TIES", ["merge_method: ties", "parameters: {lambda: 0.3, density: 0.2, normalize: false}"], "")
FILES = {"roberta-base-glue-ta.yaml": TA, "roberta-base-glue-ties.yaml": TIES}
# What RoBERTa's tokenizer puts between the two texts of a pair.
BETWEEN = "</s></s>"


def text(name: str) -> str:
    rule = FILES[name]
    lines = [*_comment(name, rule), "", "base_model: FacebookAI/roberta-base", *rule.lines, "tasks:"]
    for task in glue.TASKS:
        lines += _task(task)
    return "\n".join([*lines, *glue.SETTINGS]) + "\n"


def _comment(name: str, rule: Rule) -> Iterator[str]:
    count = len(glue.TASKS)
    yield f"# RoBERTa-base, {count} tasks of GLUE, classifiers with a head each, merged by {rule.title}."
    yield "# Written by make.py; README.md says what was and was not checked."
    yield "#"
    yield "# Papers merge such classifiers (DARE, arXiv 2311.03099, and after it EMR- and Twin-Merging)."
    yield "# DARE's own are one repository, vanillaOVO/roberta_base_glue_ckpts, with a folder for each task:"
    yield "# download it, and name the folders in `expert`. Those below are another author's."
    yield "#"
    yield f"#     epmq run --dry-run recipes/{name}      # sizes, memory, time; downloads nothing"
    yield f"#     epmq run recipes/{name} -o out"
    yield "#"
    yield "# Scores are accuracy, and Spearman's correlation on stsb; GLUE itself has Matthews' on cola."
    yield "# It was not run: nothing of the hub was tried, for want of a network. Where a repository has no"
    yield "# safetensors, save its model again by transformers (save_pretrained): pickles are refused."


def _task(task: glue.Task) -> Iterator[str]:
    columns = list(task.columns)
    texts = columns[0] if len(columns) == 1 else f"[{', '.join(columns)}]"
    where = f"dataset: nyu-mll/glue, config: {task.name}"
    yield f"  {task.name}:"
    yield f"    expert: JeremiahZ/roberta-base-{task.name}"
    if len(columns) > 1:
        yield f'    prompt: "{BETWEEN.join(f"{{{column}}}" for column in columns)}"'
    yield f"    calibration: {{{where}, split: train, texts: {texts}}}"
    yield f"    evaluation: {{{where}, split: {task.test}, texts: {texts}, labels: label}}"
    if task.answers:
        yield f"    labels: [{', '.join(task.answers)}]"
