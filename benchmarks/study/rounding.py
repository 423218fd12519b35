"""What each way of rounding leaves of the loss, on real layers: RTN, GPTQ, descent, another order of the
columns, a K-best search.

    python -m benchmarks.study.rounding --data DATA/text          (minutes on two cores)

The problems (W*, H) are those that `anchored` meets on the first four text tasks, with its own lambda and
with a tenth of it. Every figure is tr((Q - W*) H (Q - W*)^T) as a share of GPTQ's, the mean over the linears
of two layers; seconds are of the processor. Writes results/rounding.{json,md}.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.accuracy.laboratory import CPU
from benchmarks.accuracy.suites import TEXT
from benchmarks.commands import parser
from benchmarks.experts.text_tasks import HELD_OUT, lines, packaged_base
from benchmarks.machine import machine, today
from benchmarks.tables import table, write_json, write_text
from epmq_export.calibration.anchor import with_length
from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import Calibrator, TaskData
from epmq_export.calibration.descent import descend
from epmq_export.calibration.method import PRESETS
from epmq_export.calibration.rounding import gptq, nearest
from epmq_export.calibration.solver import inverse_factor
from epmq_export.grids import GRIDS, Grid
from epmq_export.grids.layout import Layout
from epmq_export.installed import registry
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
METHOD = PRESETS["anchored"]
SHARES = (1.0, 0.1)
"""The shares of its lambda that are measured."""


def ordered(weight: Tensor, hessian: Tensor, grid: Grid) -> PackedTensor:
    """Round by GPTQ in the order of a falling diagonal of H ("act-order"). Groups stay where the file has
    them, so their scales are fitted beforehand.
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
    """Search K-best: of each row, the BEAM cheapest prefixes are kept, each going on with its two nearest
    codes, under the scales of `start`.
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
    """Return the loss as a share of GPTQ's, and the seconds, by way of rounding."""
    found: dict[str, tuple[float, float]] = {}
    results: dict[str, PackedTensor] = {}

    def measure(name: str, way: Callable[[], PackedTensor]) -> None:
        started = time.process_time()
        results[name] = way()
        error = results[name].dequantise().double() - weight.double()
        found[name] = (float(((error @ hessian) * error).sum()), time.process_time() - started)

    measure("nearest", lambda: nearest(weight, GRID))
    measure("GPTQ", lambda: gptq(weight, inverse_factor(hessian, "here"), GRID))
    measure("GPTQ, then descent", lambda: descend(weight, hessian, results["GPTQ"]).packed)
    measure("act-order", lambda: ordered(weight, hessian, GRID))
    measure("act-order, then descent", lambda: descend(weight, hessian, results["act-order"]).packed)
    measure(
        f"K-best ({BEAM}) under descent's scales",
        lambda: beam(weight, hessian, results["GPTQ, then descent"]),
    )
    measure(
        "K-best, then descent",
        lambda: descend(weight, hessian, results[f"K-best ({BEAM}) under descent's scales"]).packed,
    )
    return {name: (loss / found["GPTQ"][0], seconds) for name, (loss, seconds) in found.items()}


Problem = tuple[Tensor, Tensor]
"""W*, float32 [out, in], and H, float64 [in, in]."""


def problems(data: Path, experts: Path) -> dict[str, Problem]:
    """Return the problem of each linear of LAYERS, by the weight's name."""
    directory, names = packaged_base(), TEXT.tasks[:4]
    family = registry().open_family(directory)
    base, *sources = (
        renamed(open_checkpoint(str(path)), family.canonical)
        for path in (directory, *(experts / task for task in names))
    )
    merge = merged(
        base,
        sources,
        merge_settings("task_arithmetic", [Level({"lambda": 1.0})], [(task, Level()) for task in names]),
    )
    tasks = []
    for task, source in zip(names, sources, strict=True):
        rows = lines(data / task / "train.tsv.gz")[:-HELD_OUT]
        texts = [family.truncate(text.strip()) for _, text in rows]
        tasks.append(TaskData(task, source, choose(texts, 32, 0)))
    found: dict[str, Problem] = {}

    def keep(name: str, best: Tensor, factor: Tensor | None, loss: Callable[[Tensor], float]) -> None:
        if name.startswith(LAYERS) and factor is not None:
            found[name] = best.float(), torch.linalg.inv(factor.T @ factor)

    method = replace(with_length(METHOD, family, base, sources, merge), rounding="gptq")
    calibrator = Calibrator(family, base, merge, tasks, method, Layout(), CPU, measure=keep)
    for block, _ in calibrate_blocks(calibrator):
        if block.name == LAYERS[-1].rstrip("."):
            break
    return found


def measure(found: Mapping[str, Problem]) -> list[dict[str, Any]]:
    """Return a row for each way of rounding: its mean losses by SHARES, and the seconds of the first."""
    sums: dict[str, list[list[tuple[float, float]]]] = {}
    for weight, hessian in found.values():
        for column, share in enumerate(SHARES):
            eased = hessian - (1 - share) * METHOD.damping * torch.eye(len(hessian), dtype=torch.float64)
            for name, pair in ways(weight, eased).items():
                sums.setdefault(name, [[] for _ in SHARES])[column].append(pair)
    return [
        {
            "way": name,
            "loss": [sum(loss for loss, _ in column) / len(column) for column in columns],
            "seconds": sum(seconds for _, seconds in columns[0]),
        }
        for name, columns in sums.items()
    ]


def text(about: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return the table in Markdown."""
    gptq_seconds = next(row["seconds"] for row in rows if row["way"] == "GPTQ")
    cells = [
        ["rounding", *(f"loss, lambda {METHOD.damping * share:g}" for share in SHARES), "time, GPTQ = 1"]
    ]
    for row in rows:
        losses = [f"{loss:.3f}" for loss in row["loss"]]
        cells.append([row["way"], *losses, f"{row['seconds'] / gptq_seconds:.1f}"])
    return f"# Rounding\n\n{about}\n\n{table(cells)}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("study.rounding", __doc__)
    options.add_argument("--data", type=Path, required=True, help="the folder of the text tasks")
    options.add_argument("--experts", type=Path, default=TEXT.experts)
    options.add_argument("--out", type=Path, default=RESULTS, help="the folder of rounding.json and .md")
    given = options.parse_args(arguments)
    found = problems(given.data, given.experts)
    rows = measure(found)
    about = (
        f"{len(found)} linears of all-MiniLM-L6-v2, {GRID.name}. {today()}, {machine()}. "
        "Written by `python -m benchmarks.study.rounding`."
    )
    write_json(given.out / "rounding.json", {"about": about, "rows": rows})
    write_text(given.out / "rounding.md", text(about, rows))
    print(text(about, rows))


if __name__ == "__main__":
    main()
