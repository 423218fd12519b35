"""The model card: README.md as the hub reads it, made of report.json."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCardData

from epmq_export.publishing.clients import calls, lengths

_METRICS = {"accuracy": "accuracy", "rank correlation": "spearmanr"}
"""The hub's names of what tasks are measured by. Distances from a reference have none."""


def model_card(report: Mapping[str, Any], folder: Mapping[str, Any]) -> str:
    """Return a model card: the front matter that the hub reads, the verdict, how the files are used, and the
    recipe.

    `report` is the content of report.json, with tasks or without. `folder` is the content of the JSON files
    beside the ONNX models by name, where they are there: they say at which length clients cut a text.
    """
    about = report["about"]
    tasks = report["tasks"]
    parts = [
        f"---\n{_front(report)}\n---",
        f"# {about['name']}",
        _introduction(report),
        "## Verdict",
        _verdict(report),
        *(["## Accuracy", _scores(report)] if tasks else []),
        "## Use the files",
        _use(report, folder),
        "## Recipe",
        _fenced(yaml.safe_dump(report["recipe"]["content"], sort_keys=False, allow_unicode=True), "yaml"),
    ]
    return "\n\n".join(parts) + "\n"


def _front(report: Mapping[str, Any]) -> str:
    """Return the front matter, as huggingface_hub writes it."""
    about = report["about"]
    formats = list(dict.fromkeys(file["format"] for file in report["files"]))
    clients = {"onnx": ["onnx", "transformers.js"], "gguf": ["gguf"]}
    experts = len(report["recipe"]["content"].get("tasks", ()))
    tags = [tag for name in formats for tag in clients.get(name, [])]
    sentences = about.get("pipeline_tag") == "sentence-similarity" and "onnx" in formats
    data = ModelCardData(
        base_model=about.get("base_models"),
        base_model_relation="merge" if experts > 1 else "quantized" if about.get("base_models") else None,
        language=about.get("languages"),
        library_name="sentence-transformers" if sentences else None,
        license=about.get("license"),
        model_name=about["name"],
        pipeline_tag=about.get("pipeline_tag"),
        tags=[*tags, *(["merge"] if experts > 1 else []), "epmq-export"],
        eval_results=_results(report) or None,
    )
    return data.to_yaml().strip()


def _results(report: Mapping[str, Any]) -> list[EvalResult]:
    """Return each file's score on each task that is measured by a metric of the hub."""
    found = []
    for file in report["files"]:
        row = f"{file['format']} in {file['runtime']}"
        judged = (file["checks"].get("tasks") or {}).get("by_task", {})
        for task, of_task in judged.items():
            metric = _METRICS.get(of_task["measure"])
            if metric is not None:
                found.append(
                    EvalResult(
                        task_type=report["about"]["pipeline_tag"],
                        dataset_type=task,
                        dataset_name=task,
                        metric_type=metric,
                        metric_name=f"{of_task['measure']}, {row}",
                        metric_value=round(report["scores"][row][task], 4),
                    )
                )
    return found


def _introduction(report: Mapping[str, Any]) -> str:
    """Return what the model is, in a sentence or two."""
    about, content = report["about"], report["recipe"]["content"]
    tasks = [*content.get("tasks", ())]
    bases = about.get("base_models")
    base = f"[{bases[0]}](https://huggingface.co/{bases[0]})" if bases else "its base"
    made = (
        f"One model that does the jobs of {len(tasks)} fine-tuned experts of {base}: {', '.join(tasks)}."
        if len(tasks) > 1
        else f"A fine-tuned expert of {base}, in few bits."
    )
    every = " and ".join(dict.fromkeys(file["format"].upper() for file in report["files"]))
    return (
        f"{made} Merged and calibrated with the experts' own outputs as targets, and verified, by "
        f"epmq-export {report['versions']['epmq-export']}. "
        f"The weights in {every} are the same."
    )


def _verdict(report: Mapping[str, Any]) -> str:
    """Return the verdict in words, with each file's checks and its size."""
    words = {
        "pass": "**Pass.** Every file, reloaded in its runtime, is as good as the reference.",
        "undecided": "**Undecided.** No fault was found, but there were too few lines to tell.",
        "fail": "**Fail.** A file is not as good as the reference.",
    }
    told = [_without_places(text, report) for text in [*report["broken"], *report["warnings"]]]
    lines = [words[report["verdict"]], *(f"- {text}" for text in told)]
    names = [
        name
        for name in ("codes", "metadata", "graph", "tasks")
        if any(_check(f, name) for f in report["files"])
    ]
    rows = [
        [
            f"`{PurePath(file['path']).name}`",
            f"{file['runtime']} {file['runtime_version']}",
            *(_check(file, name) for name in names),
            f"{file['bytes'] / 1e6:.1f} MB",
        ]
        for file in report["files"]
    ]
    return "\n".join(lines) + "\n\n" + _table(["file", "runtime", *names, "size"], rows)


def _without_places(text: str, report: Mapping[str, Any]) -> str:
    """Return a sentence in which files are called by their names, wherever they lay when it was written."""
    for file in report["files"]:
        for each in (file, *file["others"]):
            text = text.replace(each["path"], PurePath(each["path"]).name)
        text = text.replace(f"{PurePath(file['packed']).parent}/", "")
    return text


def _check(file: Mapping[str, Any], name: str) -> str:
    """Return whether a file passes a check; empty where it was not made."""
    check = file["checks"].get(name)
    if check is None:
        return ""
    outcome = check.get("outcome") or ("pass" if check.get("equal", check.get("passed")) else "fail")
    return "**fail**" if outcome == "fail" else str(outcome)


def _scores(report: Mapping[str, Any]) -> str:
    """Return every task's score, in percent, and the average with its 95 % interval."""
    scores, intervals = report["scores"], report["intervals"]
    columns = [*scores]
    rows = [
        [_cell(task), *(f"{100 * scores[column][task]:.1f}" for column in columns)]
        for task in report["tasks"]
    ]
    rows.append(
        ["**average**", *(_interval(scores[name]["average"], intervals[name]["average"]) for name in columns)]
    )
    return _table(["task", *columns], rows) + (
        "\n\nIn percent, the average with its 95 % interval. `experts` are as many models as tasks, each on "
        "its own; `reference` is this model before it was written into files."
    )


def _interval(value: float, ends: Sequence[float]) -> str:
    return f"{100 * value:.1f} ({100 * ends[0]:.1f} to {100 * ends[1]:.1f})"


def _use(report: Mapping[str, Any], folder: Mapping[str, Any]) -> str:
    """Return a call for each client of the files that are there, and where each cuts a text."""
    formats = {file["format"] for file in report["files"]}
    found = [
        f"{client}:\n\n{_fenced(code, language)}"
        for client, language, code in calls(report["about"], formats, folder)
    ]
    cut = lengths(folder)
    return "\n\n".join([*found, *([cut] if cut else [])])


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
