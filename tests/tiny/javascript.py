"""What the clients in JavaScript find on a disk: the folder of a sentence encoder, and stand-ins for packages
of npm.
"""

import json
from pathlib import Path


def package(place: Path, name: str, files: dict[str, str], **told: object) -> Path:
    """Install a package, whose first file is the main one, and return the folder of its files."""
    root = place / "node_modules" / name
    (root / "dist").mkdir(parents=True)
    for file, code in files.items():
        (root / "dist" / file).write_text(code)
    about = {"name": name, "version": "1.5.0", "main": f"dist/{next(iter(files))}", **told}
    (root / "package.json").write_text(json.dumps(about))
    return root / "dist"


def library(place: Path, **files: str) -> Path:
    """Install a stand-in for transformers.js and return the folder of its files. `node` is its code in Node,
    and `web` on a page.
    """
    package(place, "onnxruntime-web", {"ort.js": ""})
    names = {"node": "transformers.node.cjs", "web": "transformers.min.js"}
    needs = {"onnxruntime-node": "1.6.0", "onnxruntime-web": "1.7.0"}
    codes = {names[kind]: code for kind, code in files.items()}
    return package(place, "@huggingface/transformers", codes, dependencies=needs)


def language_folder(place: Path) -> Path:
    """Write the folder of a decoder language model and return the model's file, in which nothing is."""
    (place / "onnx").mkdir(parents=True)
    (place / "config.json").write_text(json.dumps({"transformers.js_config": {"dtype": "q4"}}))
    (place / "onnx" / "model_q4.onnx").write_text("")
    return place / "onnx" / "model_q4.onnx"


def folder(place: Path) -> Path:
    """Write the folder of a model that pools by the first token and gives vectors of length 1, and return the
    model's file, in which nothing is.
    """
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    for name, content in {
        "config.json": {"transformers.js_config": {"dtype": "q4"}},
        "modules.json": modules,
        "1_Pooling/config.json": {"pooling_mode_cls_token": True},
        "onnx/model_q4.onnx": None,
    }.items():
        (place / name).parent.mkdir(exist_ok=True, parents=True)
        (place / name).write_text(json.dumps(content))
    return place / "onnx" / "model_q4.onnx"
