"""The model card: README.md as the hub reads it, made of report.json."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from epmq_export.publishing.clients import RUNTIMES, Call, calls, lengths
from epmq_export.publishing.report import AVERAGE, JudgedFile, Report
from epmq_export.publishing.verdict import headline
from epmq_export.publishing.words import joined, percent, size

_METRICS = {"accuracy": "accuracy", "rank correlation": "spearmanr"}
"""The hub's names of what tasks are measured by. Distances from a reference have none."""


def model_card(report: Report, folder: Mapping[str, Any]) -> str:
    """Return a model card: the front matter that the hub reads, the verdict, how the files are used, and the
    recipe.

    `folder` is the content of the JSON files beside the ONNX models by name, where they are there: they say
    at which length clients cut a text.
    """
    recipe = yaml.safe_dump(report.recipe.content, sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{_front(report, folder)}\n---",
        f"# {report.about.name}",
        _introduction(report),
        "## Verdict",
        _verdict(report),
        *(["## Accuracy", _scores(report)] if report.scores else []),
        "## Use the files",
        _use(report, folder),
        "## Recipe",
        _fenced(recipe, "yaml"),
    ]
    return "\n\n".join(parts) + "\n"


def _tasks(report: Report) -> list[str]:
    """Return the tasks of the recipe, each of which has an expert."""
    return [*(report.recipe.content.get("tasks") or ())]


def _formats(report: Report) -> list[str]:
    return [*dict.fromkeys(file.format for file in report.files)]


def _calls(report: Report, folder: Mapping[str, Any]) -> list[Call]:
    """Return the calls of all clients that read such files."""
    return [*calls(report.about, {file.format: file.path for file in report.files}, folder)]


def _front(report: Report, folder: Mapping[str, Any]) -> str:
    """Return the front matter, as huggingface_hub writes it. Its library and tags are those of clients that
    read such files.
    """
    about, merged = report.about, len(_tasks(report)) > 1
    clients = [client for client, *_ in _calls(report, folder)]
    sentences = "sentence-transformers" in clients
    tags = [*_formats(report), *(["transformers.js"] if "transformers.js" in clients else [])]
    data = ModelCardData(
        base_model=about.base_models or None,
        base_model_relation="merge" if merged else "quantized" if about.base_models else None,
        language=about.languages or None,
        library_name="sentence-transformers" if sentences else None,
        license=about.license,
        model_name=about.name,
        pipeline_tag=about.pipeline_tag,
        tags=[*tags, *(["merge"] if merged else []), "epmq-export"],
        eval_results=_results(report) or None,
    )
    return data.to_yaml().strip()


def _results(report: Report) -> list[EvalResult]:
    """Return each file's score on each task that is measured by a metric of the hub."""
    return [
        EvalResult(
            task_type=report.about.pipeline_tag or "other",
            dataset_type=task,
            dataset_name=task,
            metric_type=_METRICS[loss.measure],
            metric_name=f"{loss.measure}, {file.row}",
            metric_value=round(report.scores[file.row][task], 4),
        )
        for file in report.judged
        if file.checks.tasks is not None
        for task, loss in file.checks.tasks.by_task.items()
        if loss.measure in _METRICS
    ]


def _introduction(report: Report) -> str:
    """Return what the model is, in two sentences."""
    tasks, bases = _tasks(report), report.about.base_models
    base = f"[{bases[0]}](https://huggingface.co/{bases[0]})" if bases else "its base"
    made = (
        f"One model that does the jobs of {len(tasks)} fine-tuned experts of {base}: {joined(tasks)}."
        if len(tasks) > 1
        else f"A fine-tuned expert of {base}, in few bits."
    )
    tool = " ".join(filter(None, ("epmq-export", report.versions.get("epmq-export"))))
    target = "the experts' own outputs as targets"
    if report.method.get("target") == "merged":
        target = "the merged model's own outputs as targets"
    how = f"It was calibrated with {target}, written and verified by {tool}."
    return " ".join(filter(None, (made, how, _same_weights(report))))


def _same_weights(report: Report) -> str:
    """Return a sentence on the weights of files of several formats, or an empty text."""
    formats = [name.upper() for name in _formats(report)]
    if len(formats) < 2 or not all(file.checks.codes.equal for file in report.files):
        return ""
    if report.onnx is not None:
        return "ONNX cannot hold every grid, so its weights were calibrated apart."
    return f"The weights in {joined(formats)} are the same."


def _verdict(report: Report) -> str:
    """Return the verdict in words, with each file's checks and its size."""
    head = headline(report)
    lines = [f"**{head.title}.** {head.sentence}", *(f"- {text}" for text in (*head.faults, *head.doubts))]
    rows = [
        [
            f"`{PurePath(file.path).name}`",
            f"{file.runtime} {file.runtime_version}",
            *_outcomes(file),
            size(file.bytes),
        ]
        for file in report.files
    ]
    checks = ["codes", "metadata", "graph", "tasks"]
    return "\n".join(lines) + "\n\n" + _table(["file", "runtime", *checks, "size"], rows)


def _outcomes(file: JudgedFile) -> list[str]:
    """Return how each check of a file ended; of tasks that were not judged, nothing."""
    checks, tasks = file.checks, file.checks.tasks
    found = [checks.codes.equal, checks.metadata.equal, checks.graph.passed]
    told = ["pass" if good else "**fail**" for good in found]
    if tasks is None:
        return [*told, ""]
    outcome = tasks.outcome or "fail"  # Without an outcome the file did not run.
    return [*told, "**fail**" if outcome == "fail" else outcome]


def _scores(report: Report) -> str:
    """Return every task's score, in percent, and the average with its 95 % interval."""
    rows = [
        [_cell(task), *(percent(report.scores[row][task]) for row in report.rows)] for task in report.tasks
    ]
    rows.append(["**average**", *(_average(report, row) for row in report.rows)])
    return _table(["task", *report.rows], rows) + (
        "\n\nIn percent, the average with its 95 % interval. `experts` are as many models as tasks, each on "
        "its own; `reference` is this model before it was written into files."
    )


def _average(report: Report, row: str) -> str:
    low, high = report.intervals[row][AVERAGE]
    return f"{percent(report.scores[row][AVERAGE])} ({percent(low)} to {percent(high)})"


def _use(report: Report, folder: Mapping[str, Any]) -> str:
    """Return the call of each client that was verified on the files, the names of others that read such
    files, and where each cuts a text.
    """
    ran = {file.runtime for file in report.files}
    failed = {file.runtime for file in report.files if "**fail**" in _outcomes(file)}
    found, others = [], []
    known = _calls(report, folder)
    for client, language, code in known:
        names = ran.intersection(RUNTIMES.get(client, (client,)))
        if not names:
            others.append(client)
        elif not names & failed:
            found.append(f"{client}:\n\n{_fenced(code, language)}")
    told = f"These read such files, too, and were not run on them: {joined(others)}." if others else ""
    cut = lengths(folder, [client for client, *_ in known])
    if report.about.pipeline_tag != "sentence-similarity":
        cut = ""
    return "\n\n".join(filter(None, (*found, told, _classes(report, folder), cut)))


def _classes(report: Report, folder: Mapping[str, Any]) -> str:
    """Return how the scores of classifiers are read; an empty text where the model has none."""
    named, formats = folder.get("classifiers.json") or {}, _formats(report)
    told = []
    if named and "onnx" in formats:
        outputs = "`logits`" if len(named) == 1 else "`logits_` with the task's name behind it"
        told.append(f"The ONNX model gives the scores of each task as {outputs}.")
    if named and "gguf" in formats:
        told.append(
            "The GGUF file gives the pooled hidden state of a text, of which the heads in "
            "`classifiers.safetensors` make each task's scores."
        )
    listed = "\n".join(json.dumps({task: classes}, ensure_ascii=False) for task, classes in named.items())
    told.append("The classes in the order of the scores, as `classifiers.json` names them:")
    return f"{' '.join(told)}\n\n{_fenced(listed, 'json')}" if named else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Return a text that breaks neither a table's row nor its cell."""
    return re.sub(r"\s+", " ", text).replace("|", "\\|")


def _fenced(text: str, language: str) -> str:
    """Return a block of code whose fence is longer than any in it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
