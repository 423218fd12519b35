"""What each stage of a calibration takes, in one process and in several that share the work, and what eight
GPUs would make of a large model, on paper.

    python -m benchmarks.speed.ranks --ranks 1 2 4

A layer of a Llama with four LoRA experts is calibrated on the processor, each rank with one thread. The
seconds are the processor's, so that ranks may share one: of several ranks, those of the one that takes most.
What is measured goes into results/ranks.json and .md, and into docs/results.md between comment markers.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks import RESULTS, ROOT
from benchmarks.commands import parser
from benchmarks.gpu.minilm import minilm_directory, write_recipe
from benchmarks.machine import machine, today
from benchmarks.speed.calibrations import EXPERTS, LETTERS, TEXTS, llama
from benchmarks.speed.process import watched
from benchmarks.speed.ranks_worker import EMBEDDINGS, MERGING, NEXT, REST, STAGES
from benchmarks.tables import Markers, percent, publish, table

MARKERS = Markers.of("ranks", "benchmarks.speed.ranks")
Stages = Mapping[str, float]
# Stages that every rank does whole.
WHOLE = ("factors", REST)
# A layer of a 7B Llama with four LoRA experts took so many seconds on one H200 (results/gpu.md).
MEASURED = 15.5
# What that layer's sizes and a 70B Llama's make of each kind of stage: width, inside, and keys' width.
SMALL, LARGE, LAYERS = (4096, 11008, 4096), (8192, 28672, 1024), 80
GPUS = 8


def recipes(work: Path, shape: str) -> Mapping[str, Path]:
    """Return the recipes by what they calibrate: a layer and, where MiniLM is there, the demo."""
    layer = f"A layer of {shape}, {EXPERTS} LoRA experts of {TEXTS} texts of {LETTERS} tokens"
    minilm = None if shape == "tiny" else minilm_directory()
    demo = {} if minilm is None else {"MiniLM, the demo's six LoRA experts": write_recipe(minilm, work)}
    return {layer: llama(work / "calibrate", shape, 1), **demo}


def agreement(one: Path, other: Path) -> tuple[float, float]:
    """Return the share of equal codes of two calibrations, 0..1, and the most that losses of a layer differ,
    as a share.
    """
    codes, again = (load_file(folder / "codes.safetensors") for folder in (one, other))
    equal = sum(int((value == again[name]).sum()) for name, value in codes.items())
    losses, others = (json.loads((folder / "losses.json").read_text()) for folder in (one, other))
    apart = max(abs(after / before - 1) for before, after in zip(losses, others, strict=True))
    return equal / sum(value.numel() for value in codes.values()), apart


def measured(recipe: Path, count: int, folder: Path) -> list[Stages]:
    """Calibrate in so many processes; return the seconds of each one's stages."""
    folder.mkdir(parents=True, exist_ok=True)
    worker = ("-m", "benchmarks.speed.ranks_worker", recipe, folder)
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", count) if count > 1 else ()
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    watched([sys.executable, *map(str, (*torchrun, *worker))], {"OMP_NUM_THREADS": "1", "PYTHONPATH": path})
    return [json.loads((folder / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(count)]


def growth(stage: str) -> float:
    """Return how many times as much of a stage a layer of the large model has as one of the small: of what
    grows with each kind of its matrices, [out, in].
    """
    return _work(stage, *LARGE) / _work(stage, *SMALL)


def _work(stage: str, width: int, inside: int, keys: int) -> float:
    """Return how much of a stage there is: q, k, v; o; gate, up; and down are solved together."""
    steps = [(width + 2 * keys, width), (width, width), (2 * inside, width), (width, inside)]
    power = {"factors": (0, 3), "statistics": (0, 2), "experts": (1, 1), NEXT: (1, 1)}
    rows, inputs = power.get(stage, (1, 2))
    return sum(float(out**rows * each**inputs) for out, each in steps)


def hours(shares: Stages, gpus: int) -> float:
    """Return the hours of all layers of the large model, from each stage's share of the measured layer."""
    layer = sum(
        MEASURED * share * growth(stage) / (1 if stage in WHOLE else gpus) for stage, share in shares.items()
    )
    return LAYERS * layer / 3600


def _of_a_layer(stages: Stages) -> Stages:
    """Return the shares of what the measured layer did, too: nothing was merged there."""
    kept = {stage: each for stage, each in stages.items() if stage not in (MERGING, EMBEDDINGS)}
    return {stage: each / sum(kept.values()) for stage, each in kept.items()}


def page(found: Mapping[str, Any]) -> str:
    """Return the tables and the estimate in Markdown."""
    runs: Mapping[str, Sequence[Stages]] = found["runs"]
    one = runs["1"][0]
    total = sum(one.values())
    rows = [("stage", "share in one", *(f"{count} ranks" if count != "1" else "one" for count in runs))]
    for stage in (*STAGES, REST):
        most = [f"{max(each[stage] for each in ranks):.1f}" for ranks in runs.values()]
        rows.append((stage, f"{percent(one[stage] / total)} %", *most))
    most_of = {count: max(sum(each.values()) for each in ranks) for count, ranks in runs.items()}
    rows.append(("all, of the rank that takes most", "", *(f"{most:.1f}" for most in most_of.values())))
    gains = ", ".join(
        f"{count} ranks {total / most:.1f} times" for count, most in most_of.items() if count != "1"
    )
    shares = _of_a_layer(one)
    agree = [("beside one process", "ranks", "equal codes", "a layer's loss, at most")]
    agree += [
        (what, count, f"{percent(equal)} %", f"{100 * apart:.2f} % apart")
        for what, by_count in found["agreement"].items()
        for count, (equal, apart) in by_count.items()
    ]
    return (
        f"{found['what']}; seconds of the processor, one thread a rank ({found['machine']}, "
        f"{found['date']}, `python -m benchmarks.speed.ranks`).\n\n{table(rows)}\n\n{table(agree)}\n\n"
        f"So many times as fast as one, with a processor for each: {gains}. With one layer alone, its "
        "embeddings, which one rank merges, weigh more than in a whole model.\n\n"
        "**An estimate, which nobody has measured:** a 70B Llama (80 layers, 8192 wide, 28672 inside) with "
        f"four LoRA experts takes {hours(shares, 1):.1f} hours on one H200 and {hours(shares, GPUS):.1f} on "
        f"{GPUS}. It takes the {MEASURED} seconds that a layer of a 7B Llama took on one H200, by the shares "
        "above without the first two, times what the larger layer has more of each; of all stages but the "
        "factors and what else is whole in each rank an eighth; and no time for the exchange. A GPU waits "
        "for launches where a processor computes, as in the loops over "
        "columns of GPTQ and descent, which more GPUs do not make shorter: if nothing of these two were "
        f"shared, it would be {_unshared(shares):.1f} hours.\n"
    )


def _unshared(shares: Stages) -> float:
    loops = {stage: shares[stage] for stage in ("GPTQ", "descent")}
    others = {stage: share for stage, share in shares.items() if stage not in loops}
    return hours(loops, 1) + hours(others, GPUS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    commands = parser("speed.ranks", __doc__)
    commands.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="how many, beside one")
    commands.add_argument("--shape", default="341M", help="the shape of the layer; default: 341M")
    commands.add_argument("--work", type=Path, default=Path.home() / ".cache" / "epmq" / "speed")
    commands.add_argument("--results", type=Path, default=RESULTS, help="the folder of the tables")
    given = commands.parse_args(arguments)
    counts = sorted({1, *given.ranks})
    by_recipe: dict[str, dict[str, Sequence[Stages]]] = {}
    agreed: dict[str, dict[str, tuple[float, float]]] = {}
    for number, (what, recipe) in enumerate(recipes(given.work, given.shape).items()):
        folders = {count: given.work / "ranks" / f"{number}-{count}" for count in counts}
        by_recipe[what] = {str(count): measured(recipe, count, folders[count]) for count in counts}
        agreed[what] = {str(count): agreement(folders[1], folders[count]) for count in counts if count > 1}
    what = next(iter(by_recipe))
    found = {
        "what": what,
        "machine": machine(),
        "date": today(),
        "runs": by_recipe[what],
        "agreement": agreed,
    }
    publish(given.results, "ranks", "Several ranks", found, page(found), MARKERS)


if __name__ == "__main__":
    main()
