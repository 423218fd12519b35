"""Size and speed at the paper's size: the whole chain on CLIP models of the true shapes, randomly
initialised. It says nothing of accuracy.

    python -m benchmarks.size b32 --experts 8 --samples 256
    python -m benchmarks.size l14 --experts 20 --samples 8 --merge task_arithmetic

Base and experts are written into --work (and kept there), with a tokenizer of CLIP's size and noise as
images; `epmq run` merges, calibrates, writes GGUF and ONNX and reloads both. What its report says goes into
results/paper_size.json and .md, with the time of the forward passes alone beside that of the calibration.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tokenizers import pre_tokenizers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from benchmarks import RESULTS, ROOT
from benchmarks.machine import machine
from converters import open_family
from epmq_export import files
from epmq_export.data.images import read_pictures
from epmq_export.data.request import DataRequest
from epmq_export.models import reference
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.source import renamed

VOCABULARY, SIDE, LEFT = 49408, 224, 2


@dataclass(frozen=True)
class Shape:
    width: int
    layers: int
    patch: int
    text_width: int
    projection: int


# OpenAI's ViT-B/32 and ViT-L/14.
SHAPES = {"b32": Shape(768, 12, 32, 512, 512), "l14": Shape(1024, 24, 14, 768, 768)}


def write_base(shape: Shape, directory: Path) -> None:
    torch.manual_seed(0)
    text = {
        "hidden_size": shape.text_width,
        "intermediate_size": 4 * shape.text_width,
        "num_attention_heads": shape.text_width // 64,
    }
    text |= {
        "num_hidden_layers": 12,
        "vocab_size": VOCABULARY,
        "bos_token_id": VOCABULARY - 2,
        "eos_token_id": VOCABULARY - 1,
    }
    vision = {
        "hidden_size": shape.width,
        "intermediate_size": 4 * shape.width,
        "num_attention_heads": shape.width // 64,
    }
    vision |= {"num_hidden_layers": shape.layers, "image_size": SIDE, "patch_size": shape.patch}
    model: Any = CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=shape.projection)
    )
    model.half().save_pretrained(directory)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{byte}</w>" for byte in alphabet)]
    tokens += [
        "in</w>",
        *(f"<unused{i}>" for i in range(VOCABULARY - 3 - len(tokens))),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    merges: Any = [("i", "n</w>")]  # one, since a file without any would be no CLIP's
    CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=77
    ).save_pretrained(directory)
    CLIPImageProcessorPil().save_pretrained(directory)


def write_expert(base: Path, directory: Path, seed: int) -> None:
    """The image tower with noise on its matrices, a tenth of their own size."""
    generator = torch.Generator().manual_seed(seed)
    model: Any = CLIPModel.from_pretrained(base)
    with torch.no_grad():
        for parameter in model.vision_model.encoder.parameters():
            if parameter.ndim == 2:
                parameter += 0.1 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    model.vision_model.half().save_pretrained(directory)


def write_images(path: Path, count: int, seed: int) -> None:
    """Coarse noise: uint8 [count, 224, 224, 3]."""
    random = np.random.Generator(np.random.PCG64(seed))
    np.savez(
        path,
        images=random.integers(0, 256, (count, SIDE // 8, SIDE // 8, 3), np.uint8).repeat(8, 1).repeat(8, 2),
    )


def prepare(name: str, experts: int, samples: int, merge: str, work: Path) -> Path:
    """The recipe, with everything that it names written beside it where it is not there yet."""
    base = work / name
    if not base.exists():
        with files.whole(base) as built:
            write_base(SHAPES[name], built)
    tasks = {}
    for t in range(experts):
        expert, images = work / f"{name}-expert-{t}", work / f"images-{samples}-{t}.npz"
        if not expert.exists():
            with files.whole(expert) as built:
                write_expert(base, built, t + 1)
        if not images.exists():
            write_images(images, samples + LEFT, t)
        tasks[f"task{t}"] = {
            "expert": f"./{expert.name}",
            "calibration": {"path": images.name, "images": "images"},
        }
    recipe = {
        "base_model": f"./{name}",
        "merge_method": merge,
        "tasks": tasks,
        "calibration": {"samples": samples},
    }
    path = work / f"{name}-{experts}-{samples}-{merge}.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def forward_seconds(base: Path, recipe: Path) -> float:
    """One pass of all calibration images through one model."""
    family = open_family(base)
    tasks = yaml.safe_load(recipe.read_text(encoding="utf-8"))["tasks"].values()
    pictures = [
        picture
        for task in tasks
        for picture in read_pictures(
            DataRequest(path=recipe.parent / task["calibration"]["path"], images="images")
        ).samples[:-LEFT]
    ]
    source = renamed(open_checkpoint(base), family.canonical)
    started = time.monotonic()
    reference.outputs(family, source, pictures, torch.device("cpu"))
    return time.monotonic() - started


def watched(command: list[str]) -> tuple[int, int]:
    """Exit code, and the most bytes of memory of its own that the process held at once: without mapped files,
    which the system drops at need (Linux).
    """
    most = 0
    with subprocess.Popen(command) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            held = re.search(r"RssAnon:\s+(\d+) kB", status.read_text(encoding="utf-8"))
            most = max(most, int(held[1]) * 1024 if held else 0)
            time.sleep(0.1)
    return process.returncode, most


def measure(name: str, experts: int, samples: int, merge: str, work: Path) -> dict[str, Any]:
    recipe = prepare(name, experts, samples, merge, work)
    out = work / f"{recipe.stem}-out"
    command = [sys.executable, str(ROOT / "cli.py"), "run", str(recipe), "-o", str(out), "--resume"]
    code, anonymous = watched(command)
    if code not in (0, 1):
        raise SystemExit(f"{' '.join(command)}: exit code {code}")
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    written = {file["format"]: file for file in report["files"]}
    return {
        "model": name,
        "experts": experts,
        "samples": samples,
        "merge": merge,
        "verdict": report["verdict"],
        "forward_seconds": forward_seconds(work / name, recipe),
        "seconds": report["seconds"],
        "peak_memory_bytes": report["peak_memory_bytes"],
        "peak_anonymous_bytes": anonymous,
        "bytes": {
            kind: {Path(each["path"]).name: each["bytes"] for each in (file, *file["others"])}
            for kind, file in written.items()
        },
        "base_bytes": sum(path.stat().st_size for path in (work / name).glob("*.safetensors")),
        "fused": written["onnx"]["notes"].get("fused"),
        "linears": written["onnx"]["notes"].get("linears"),
        "codes": {kind: file["checks"]["codes"]["equal"] for kind, file in written.items()},
        "graph": {kind: file["checks"]["graph"]["value"] for kind, file in written.items()},
    }


def text(about: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    head = [
        "model",
        "experts",
        "images a task",
        "merge",
        "calibration",
        "forward passes",
        "peak memory",
        "without mapped files",
        "base, F16",
        "GGUF",
        "ONNX image tower",
        "fused",
        "graph",
    ]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        seconds = row["seconds"]["calibrate"]
        onnx = next(size for file, size in row["bytes"]["onnx"].items() if file.startswith("vision"))
        graph = ", ".join(f"{kind} {value:.0e}" for kind, value in row["graph"].items())
        lines.append(
            [
                {"b32": "ViT-B/32", "l14": "ViT-L/14"}[row["model"]],
                str(row["experts"]),
                str(row["samples"]),
                row["merge"],
                f"{seconds / 60:.1f} min",
                (
                    f"{seconds / row['forward_seconds']:.1f} times one over all images "
                    f"({row['forward_seconds']:.0f} s)"
                ),
                f"{row['peak_memory_bytes'] / 2**30:.1f} GiB",
                f"{row['peak_anonymous_bytes'] / 2**30:.1f} GiB",
                f"{row['base_bytes'] / 1e6:.0f} MB",
                f"{sum(row['bytes']['gguf'].values()) / 1e6:.0f} MB",
                f"{onnx / 1e6:.0f} MB",
                f"{row['fused']} of {row['linears']}",
                graph,
            ]
        )
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    about_it = (
        f"Randomly initialised models: nothing here says anything of accuracy. {about['date']}, "
        f"{about['machine']}."
    )
    return f"# Size and speed at the paper's size\n\n{about_it}\n\n{table}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", choices=SHAPES)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--merge", default="tsvm")
    parser.add_argument("--work", type=Path, default=Path.home() / ".cache/epmq/paper-size")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    row = measure(given.model, given.experts, given.samples, given.merge, given.work)
    path = given.out / "paper_size.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    keys = ("model", "experts", "samples", "merge")
    rows = sorted(
        [each for each in kept if any(each[key] != row[key] for key in keys)] + [row],
        key=lambda each: tuple(str(each[key]) for key in keys),
    )
    about = {"machine": machine(), "date": time.strftime("%Y-%m-%d")}
    with files.whole(path) as built:
        built.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    with files.whole(path.with_suffix(".md")) as built:
        built.write_text(text(about, rows), encoding="utf-8")
    print(json.dumps(row, indent=1))


if __name__ == "__main__":
    main()
