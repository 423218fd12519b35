"""What each way of rounding leaves of the loss, on real layers: RTN, GPTQ, descent, another order of the
columns, a K-best search.

    python -m benchmarks.study.rounding --data DATA/text          (minutes on two cores)

The problems (W*, H) are those that `anchored` meets on the first four text tasks, with its own lambda and
with a tenth of it. Every figure is tr((Q - W*) H (Q - W*)^T) as a share of GPTQ's, the mean over the linears
of two layers; seconds are of the processor. Writes results/rounding.{json,md}.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.accuracy.laboratory import CPU
from benchmarks.accuracy.suites import TEXT
from benchmarks.experts.text_tasks import HELD_OUT, lines, packaged_base
from benchmarks.machine import machine
from converters import open_family
from epmq_export.calibration.anchor import with_length
from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import Calibrator, TaskData
from epmq_export.calibration.descent import descend
from epmq_export.calibration.method import PRESETS
from epmq_export.calibration.rounding import gptq, nearest
from epmq_export.calibration.solver import inverse_factor
from epmq_export.grids import GRIDS, Grid
from epmq_export.grids.layout import Layout
from epmq_export.merging.merged import merged
from epmq_export.merging.parameters import Level
from epmq_export.merging.registry import merge_settings
from epmq_export.models.samples import choose
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.packed import PackedTensor
from epmq_export.tensors.source import renamed

LAYERS = ("encoder.layer.1.", "encoder.layer.4.")
GRID = GRIDS["Q4_0"]
BEAM = 4


def ordered(weight: Tensor, hessian: Tensor, grid: Grid) -> PackedTensor:
    """GPTQ by falling diagonal of H ("act-order"). Groups stay where the file has them, so their scales are
    fitted beforehand.
    """
    order = hessian.diagonal().argsort(descending=True)
    upper = inverse_factor(hessian[order][:, order], "here").float()
    _, stored = grid.quantise(weight, hessian.diagonal().float())
    steps, _ = grid.steps(stored)
    left, codes = weight[:, order].clone(), torch.empty(weight.shape, dtype=torch.int8)
    for place, j in enumerate(order.tolist()):
        step = steps[:, j // grid.subgroup]
        codes[:, j] = grid.encode(left[:, place].clone(), step)
        error = (left[:, place] - grid.decode(codes[:, j], step)) / upper[place, place]
        left[:, place + 1 :].addr_(error, upper[place, place + 1 :], alpha=-1)
    return PackedTensor(grid, codes, stored)


def beam(weight: Tensor, hessian: Tensor, start: PackedTensor) -> PackedTensor:
    """K-best: of each row, the BEAM cheapest prefixes are kept, each going on with its two nearest codes;
    under the scales of `start`.
    """
    grid, upper = start.grid, inverse_factor(hessian, "here").float()
    steps, _ = grid.steps(start.stored)
    left, cost = weight[:, None].clone(), torch.zeros(len(weight), 1)
    codes = torch.zeros(len(weight), 1, weight.shape[1], dtype=torch.int8)
    for j in range(weight.shape[1]):
        step = steps[:, j // grid.subgroup, None]
        best = grid.encode(left[:, :, j].clone(), step)
        beyond = torch.where(left[:, :, j] > grid.decode(best, step), 1, -1) * torch.where(step < 0, -1, 1)
        other = (best + beyond).clamp(grid.lowest, grid.highest).to(torch.int8)
        both = torch.cat((best, other), 1)
        error = (left[:, :, j].repeat(1, 2) - grid.decode(both, step)) / upper[j, j]
        total = cost.repeat(1, 2) + error.square()
        total[:, best.shape[1] :][best == other] = torch.inf
        cost, chosen = total.topk(min(BEAM, total.shape[1]), 1, largest=False)
        parent = chosen % best.shape[1]
        left, codes = (
            value.gather(1, parent[:, :, None].expand(-1, -1, value.shape[2])) for value in (left, codes)
        )
        codes[:, :, j] = both.gather(1, chosen)
        left[:, :, j + 1 :] -= error.gather(1, chosen)[:, :, None] * upper[j, j + 1 :]
    return PackedTensor(grid, codes[:, 0].contiguous(), start.stored)


def ways(weight: Tensor, hessian: Tensor) -> dict[str, tuple[float, float]]:
    """By way of rounding: the loss as a share of GPTQ's, and the seconds."""
    found: dict[str, tuple[float, float]] = {}
    results: dict[str, PackedTensor] = {}

    def measure(name: str, way: Callable[[], PackedTensor]) -> None:
        started = time.process_time()
        results[name] = way()
        error = results[name].dequantise().double() - weight.double()
        found[name] = (float(((error @ hessian) * error).sum()), time.process_time() - started)

    measure("nearest", lambda: nearest(weight, GRID))
    measure("GPTQ", lambda: gptq(weight, inverse_factor(hessian, "here"), GRID))
    measure("GPTQ, then descent", lambda: descend(weight, hessian, results["GPTQ"]))
    measure("act-order", lambda: ordered(weight, hessian, GRID))
    measure("act-order, then descent", lambda: descend(weight, hessian, results["act-order"]))
    measure(
        f"K-best ({BEAM}) under descent's scales",
        lambda: beam(weight, hessian, results["GPTQ, then descent"]),
    )
    measure(
        "K-best, then descent",
        lambda: descend(weight, hessian, results[f"K-best ({BEAM}) under descent's scales"]),
    )
    return {name: (loss / found["GPTQ"][0], seconds) for name, (loss, seconds) in found.items()}


def problems(data: Path, experts: Path) -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
    """lambda, and W* and H of each linear of LAYERS."""
    family = open_family(packaged_base())
    base, *sources = (
        renamed(open_checkpoint(str(path)), family.canonical)
        for path in (packaged_base(), *(experts / task for task in TEXT.tasks[:4]))
    )
    merge = merged(
        base,
        sources,
        merge_settings(
            "task_arithmetic", [Level({"lambda": 1.0})], [(task, Level()) for task in TEXT.tasks[:4]]
        ),
    )
    method = with_length(PRESETS["anchored"], family, base, sources, merge)
    texts = (
        [family.truncate(text.strip()) for _, text in lines(data / task / "train.tsv.gz")[:-HELD_OUT]]
        for task in TEXT.tasks[:4]
    )
    tasks = [
        TaskData(task, source, choose([*each], 32, 0))
        for task, source, each in zip(TEXT.tasks[:4], sources, texts, strict=True)
    ]
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, best: Tensor, factor: Tensor | None, loss: Callable[[Tensor], float]) -> None:
        if name.startswith(LAYERS) and factor is not None:
            found[name] = best.float(), torch.linalg.inv(factor.T @ factor)

    calibrator = Calibrator(
        family, base, merge, tasks, replace(method, rounding="gptq"), Layout(), CPU, measure=keep
    )
    for block, _ in calibrate_blocks(calibrator):
        if block.name == LAYERS[-1].rstrip("."):
            break
    return method.damping, found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/text"))
    parser.add_argument("--experts", type=Path, default=Path.home() / ".cache/epmq/experts/minilm-full")
    given = parser.parse_args()
    damping, found = problems(given.data, given.experts)
    sums: dict[str, list[list[tuple[float, float]]]] = {}
    for weight, hessian in found.values():
        for column, share in enumerate((1.0, 0.1)):
            eased = hessian - (1 - share) * damping * torch.eye(len(hessian), dtype=torch.float64)
            for name, pair in ways(weight, eased).items():
                sums.setdefault(name, [[], []])[column].append(pair)
    rows: list[dict[str, Any]] = [
        {
            "way": name,
            "loss": [sum(loss for loss, _ in column) / len(column) for column in columns],
            "seconds": sum(s for _, s in columns[0]),
        }
        for name, columns in sums.items()
    ]
    about = (
        f"{len(found)} linears of all-MiniLM-L6-v2, Q4_0. {datetime.now(UTC).strftime('%Y-%m-%d')}, "
        f"{machine()}. Written by `python -m benchmarks.study.rounding`."
    )
    text = [
        f"# Rounding\n\n{about}\n",
        f"| rounding | loss, lambda {damping:g} | loss, lambda {damping / 10:g} | time, GPTQ = 1 |",
        "| --- | --- | --- | --- |",
    ]
    gptq_seconds = next(row["seconds"] for row in rows if row["way"] == "GPTQ")
    for row in rows:
        slower = row["seconds"] / gptq_seconds
        text.append(f"| {row['way']} | {row['loss'][0]:.3f} | {row['loss'][1]:.3f} | {slower:.1f} |")
    (RESULTS / "rounding.json").write_text(
        json.dumps({"about": about, "rows": rows}, indent=1) + "\n", encoding="utf-8"
    )
    (RESULTS / "rounding.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))


if __name__ == "__main__":
    main()
