"""A report of a run, small and made by hand, for what is made of reports."""

import hashlib
from pathlib import Path
from typing import Any


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.02, "high": value + 0.02, "lower": value, "upper": value}


def of_task(measure: str) -> dict[str, Any]:
    return {"measure": measure, "loss": estimate(0.01)}


def a_report(output: Path, name: str = "support-merged") -> dict[str, Any]:
    """Return a report on a GGUF and an ONNX file, which are written into `output`."""
    files = []
    for format, runtime, path in (
        ("gguf", "llama.cpp", f"gguf/{name}-Q4_0.gguf"),
        ("onnx", "onnxruntime", "onnx/onnx/model_q4.onnx"),
    ):
        place = output / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(path.encode())
        same, check = {"equal": True}, {"passed": True}
        tasks = {
            "passed": True,
            "outcome": "undecided",
            "by_task": {"mood": of_task("accuracy"), "near|by": of_task("cosine distance")},
        }
        files.append(
            {
                "path": str(place),
                "packed": str(output / "packed"),
                "format": format,
                "runtime": runtime,
                "runtime_version": "1.2",
                "sha256": hashlib.sha256(path.encode()).hexdigest(),
                "bytes": len(path),
                "others": [],
                "checks": {"codes": same, "metadata": same, "graph": check, "tasks": tasks},
            }
        )
    columns = ("base", "experts", "merged", "reference", "gguf in llama.cpp", "onnx in onnxruntime")
    scores = {
        column: {"mood": 0.5 + i / 100, "near|by": 0.9, "average": 0.7 + i / 200}
        for i, column in enumerate(columns)
    }
    return {
        "format": "epmq-report-2",
        "about": {
            "name": name,
            "base_models": ["org/small"],
            "license": "apache-2.0",
            "languages": ["en"],
            "pipeline_tag": "sentence-similarity",
        },
        "verdict": "pass",
        "broken": [],
        "warnings": [],
        "tasks": ["mood", "near|by"],
        "scores": scores,
        "intervals": {
            row: {key: [value - 0.1, value + 0.1] for key, value in of.items()} for row, of in scores.items()
        },
        "files": files,
        "recipe": {
            "file": {"path": "/home/someone/recipe.yaml", "sha256": "0" * 64},
            "content": {"base_model": "org/small", "tasks": {"mood": {}, "near|by": {}}},
        },
        "versions": {"epmq-export": "0.1.0"},
    }
