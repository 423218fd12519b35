"""Reports for the tests of what is made of them: a hand-made one, and random ones."""

import string
from copy import deepcopy
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

PLACE = Path("report.json")
"""Where a report is said to lie, in sentences on what is wrong with it."""

HASH = "0" * 64
STAGES = ("loss_merged", "loss_before", "loss_rounded", "loss_after")


def estimate(value: float, width: float = 0.02) -> dict[str, float]:
    low, high = value - width, value + width
    return {"value": value, "low": low, "high": high, "lower": low, "upper": high}


def loss(value: float = 0.01, measure: str = "accuracy", outcome: str = "pass") -> dict[str, Any]:
    """Return what a file loses on one task."""
    key = {"cosine distance": "verify.agreement", "KL divergence": "verify.kl"}.get(measure, "verify.tasks")
    told = {
        "distance": {"measure": "cosine distance", "mean": estimate(2e-4, 1e-5), "p99": estimate(9e-4, 1e-5)},
        "same_first": estimate(0.98),
        "neighbours": None,
    }
    table = {"only_reference": 3, "only_file": 1, "flips": 0.04, "mcnemar_p": 0.625}
    places: dict[str, Any] = {"lines_only_reference": [1, 2, 5], "lines_only_file": [7]}
    return {
        "key": key,
        "measure": measure,
        "lines": 100,
        "margin": 0.02,
        "loss": estimate(value),
        "p": 0.7,
        "p_holm": 1.0,
        "outcome": outcome,
        "table": table | places if measure == "accuracy" else None,
        **told,
        "floor": {"lines": 50, **told},
        "facts": {},
    }


def judged(losses: dict[str, dict[str, Any]], outcome: str = "pass") -> dict[str, Any]:
    """Return the check of tasks."""
    keys = {each["key"]: each["measure"] for each in losses.values()}
    pooled = [
        {
            "key": key,
            "measure": measure,
            "tasks": [name for name, each in losses.items() if each["key"] == key],
            "lines": 100 * len(losses),
            "margin": 0.02,
            "loss": estimate(0.01),
            "outcome": outcome,
            "resolution": 0.02,
            "enough_lines": 400,
        }
        for key, measure in keys.items()
    ]
    return {
        "rule": "confidence",
        "outcome": outcome,
        "passed": outcome != "fail",
        "pooled": pooled,
        "worst": {"task": next(iter(losses)), "p": 0.7, "p_holm": 1.0, "outcome": outcome},
        "ratio": {"value": 0.99, "low": 0.98, "high": 1.0, "gate": 0.99, "reached": True},
        "by_task": losses,
    }


def file(format: str, runtime: str, tasks: dict[str, Any] | None) -> dict[str, Any]:
    """Return the entry of a file."""
    return {
        "path": f"/home/someone/out/{format}/model.{format}",
        "format": format,
        "packed": "/home/someone/out/packed",
        "sha256": HASH,
        "bytes": 31_000_000,
        "others": [],
        "runtime": runtime,
        "runtime_version": "1.2",
        "checks": {
            "codes": {"equal": True, "tensors": 101, "decoded_by_runtime": 36},
            "metadata": {"equal": True, "differences": 0},
            "graph": {
                "metric": "rms_relative",
                "value": 3e-4,
                "tolerance": 1e-3,
                "passed": True,
                "samples": 43,
                "by_tower": {"model: bert": 3e-4},
            },
            "tasks": tasks,
        },
        "notes": {},
    }


def layer(tensor: str, losses: tuple[float, ...] = (0.03, 0.02, 0.05, 0.04)) -> dict[str, Any]:
    return {"tensor": tensor, "grid": "Q4_0", **dict(zip(STAGES, losses, strict=True))}


def report(tasks: tuple[str, ...] = ("mood", "topic")) -> dict[str, Any]:
    """Return the report of a run with these tasks."""
    files = [
        file("gguf", "llama.cpp", judged({task: loss() for task in tasks}) if tasks else None),
        file("onnx", "onnxruntime", judged({task: loss(-0.01) for task in tasks}) if tasks else None),
    ]
    rows = ("base", "experts", "merged", "reference", "gguf in llama.cpp", "onnx in onnxruntime")
    levels = dict(zip(rows, (0.6, 0.95, 0.85, 0.9, 0.89, 0.91), strict=True)) if tasks else {}
    names = (*tasks, "average")
    content = {
        "format": "epmq-report-2",
        "about": {"name": "tiny-merged"},
        "verdict": "pass",
        "broken": [],
        "warnings": [],
        "tasks": list(tasks),
        "evaluated": dict.fromkeys(tasks, HASH),
        "scores": {row: dict.fromkeys(names, level) for row, level in levels.items()},
        "intervals": {
            row: {name: [level - 0.05, level + 0.05] for name in names} for row, level in levels.items()
        },
        "answers": {row: dict.fromkeys(tasks, "0110") for row in levels},
        "files": files,
        "layers": [
            layer(f"encoder.layer.{block}.{part}.weight")
            for block in range(3)
            for part in ("query", "output.dense")
        ],
        "tensors": [
            {"tensor": "embeddings.weight", "storage": "F16", "shape": [100, 32], "bytes": 6400},
            {"tensor": "encoder.layer.0.query.weight", "storage": "Q4_0", "shape": [32, 32], "bytes": 576},
        ],
        "notes": [],
        "onnx": None,
        "method": {"name": "anchored", "alpha": 0.5},
        "search": {},
        "recipe": {
            "file": {"path": "/home/someone/recipe.yaml", "sha256": HASH},
            "content": {"base_model": "someone/base", "tasks": dict.fromkeys(tasks)},
        },
        "inputs": [{"path": "base/config.json", "sha256": HASH}],
        "versions": {"epmq-export": "0.1.0"},
        "seconds": {"calibrate": 12.5, "verify": 3.0},
        "peak_memory_bytes": 1_200_000_000,
    }
    return deepcopy(content)


def with_unrounded(content: dict[str, Any]) -> dict[str, Any]:
    """Return a report with the scores of the model before its rounding, in the place where runs have it."""
    for key in ("scores", "intervals", "answers"):
        rows = content[key]
        found = deepcopy(rows["merged"])
        content[key] = {name: rows[name] for name in ("base", "experts", "merged")}
        content[key] |= {"unrounded": found} | rows
    content["scores"]["unrounded"] = dict.fromkeys(content["scores"]["unrounded"], 0.93)
    return content


names = st.text(min_size=1, max_size=30) | st.sampled_from(
    [
        "<script>alert(1)</script>",
        "a&b\"'",
        "$x^2$",
        "#010101",
        "多语言",
        "مهمة",
        "a\u0000b",
        "\ud800",
        "average ",
    ]
)
"""Names as users give them, and worse."""

numbers = st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, 1e-300, 1e14])
shares = st.floats(0, 1)
words = st.text(string.printable, max_size=60) | names


@st.composite
def estimates(draw: st.DrawFn) -> dict[str, float]:
    value, width = draw(numbers), draw(st.floats(0, 10))
    return estimate(value, width)


@st.composite
def losses(draw: st.DrawFn) -> dict[str, Any]:
    measure = draw(
        st.sampled_from(
            ["accuracy", "rank correlation", "agreement with the expert", "cosine distance", "KL divergence"]
        )
    )
    content = loss(measure=measure, outcome=draw(st.sampled_from(["pass", "undecided", "fail"])))
    content |= {"loss": draw(estimates()), "margin": draw(numbers)}
    content["same_first"] = draw(st.none() | estimates())
    content["floor"] = content["floor"] if draw(st.booleans()) else None
    return content


@st.composite
def reports(draw: st.DrawFn) -> dict[str, Any]:
    """Return a report of any tasks, files and layers."""
    tasks = tuple(draw(st.lists(names.filter(lambda name: name != "average"), max_size=4, unique=True)))
    content = report(tasks)
    content["verdict"] = draw(st.sampled_from(["pass", "undecided", "fail"]))
    content["broken"] = draw(st.lists(words, max_size=2))
    content["warnings"] = draw(st.lists(words, max_size=2))
    for row in content["scores"]:
        content["scores"][row] |= {task: draw(st.floats(-1, 1)) for task in tasks}
    for each in content["files"]:
        each["path"] = draw(words)
        if tasks:
            each["checks"]["tasks"] = judged({task: draw(losses()) for task in tasks})
        if draw(st.booleans()):
            each["checks"]["tasks"] = {"rule": "point", "outcome": None, "passed": False}
            each["checks"]["graph"]["value"] = None
    amounts = st.tuples(*[st.floats(0, 1e6)] * 4)
    content["layers"] = [layer(draw(names), draw(amounts)) for _ in range(draw(st.integers(0, 4)))]
    content["tensors"] = content["tensors"][: draw(st.integers(0, 2))]
    content["recipe"]["content"]["prompt"] = draw(words)
    if draw(st.booleans()):
        content["onnx"] = {
            "layers": content["layers"][:1],
            "notes": [draw(words)],
            "tensors": content["tensors"],
        }
    return content
