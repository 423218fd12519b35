"""The judge: how much of several experts' accuracy each method keeps, in full precision, packed, and reloaded
from GGUF and ONNX; and each peer.

    python -m benchmarks.accuracy --data DATA/text
        the whole table: hours on two cores
    python -m benchmarks.accuracy --data DATA/text --lines 100 --merges "TA 0.3" --methods gptq --out quick
        a part of it, elsewhere
    python -m benchmarks.accuracy --data DATA/text --methods --peers --grids Q4_1 Q4_K Q2_K
        the default method on other grids; with --grid-methods, others
    python -m benchmarks.accuracy --data DATA/text --counts 2 4 8 11
        how the gap grows with the number of tasks
    python -m benchmarks.accuracy --suite image --data DATA/image --peers
        the same of image tasks, into results/image

DATA/text holds a folder a task, as `python -m benchmarks.experts.text` reads it, which trains the experts.
Calibration takes sentences from `train.tsv.gz`, without labels; scores are on the first lines of
`test.tsv.gz`, against frozen heads of label embeddings. Peers (benchmarks/peers) are given the same merged
model and the same calibration sentences. What tunes or refines, and grids other than Q4_0, are measured after
the first of the merges alone.

Every finished row is saved at once, as accuracy.json and accuracy.md, so an interrupted run goes on where it
stopped. Afterwards, `python -m benchmarks.accuracy.pages` puts the averages into docs/results.md and README.
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks import RESULTS
from benchmarks.accuracy import counts
from benchmarks.accuracy.judge import LONG, Judge
from benchmarks.accuracy.laboratory import MERGES, METHODS, Laboratory
from benchmarks.accuracy.rows import PEERS
from benchmarks.accuracy.suites import SUITES, TEXT, Suite
from benchmarks.commands import parser
from benchmarks.peers import known
from epmq_export.calibration.method import DEFAULT_METHOD
from epmq_export.errors import EpmqError
from epmq_export.grids import GRIDS

CHOSEN = ("gptq", "epmq", DEFAULT_METHOD, *LONG)


def open_judge(given: argparse.Namespace, tasks: Sequence[str], out: Path, folder: Path) -> Judge:
    """Return a judge of some tasks; SystemExit where a task's data or experts are missing."""
    suite: Suite = given.suite
    asked = ("packed", *given.formats)
    suite = replace(suite, runtimes={stage: told for stage, told in suite.runtimes.items() if stage in asked})
    for task in tasks:
        if not (file := given.data / suite.file.format(task)).is_file():
            raise SystemExit(f"{file}: no such file; give --data, the folder of the {suite.name} tasks")
    if missing := [task for task in tasks if not (given.experts / task).is_dir()]:
        raise SystemExit(
            f"{given.experts}: no experts for {', '.join(missing)}; train them (some minutes each) with\n"
            f"    {suite.training(given.data, given.experts, missing)}"
        )
    laboratory = Laboratory(
        folder=folder,
        base=suite.base(given.experts),
        experts=given.experts,
        data=given.data,
        tasks=tasks,
        lines=given.lines,
        samples=given.samples,
        suite=suite,
        device=torch.device(given.device),
    )
    return Judge.open(laboratory, out, given.restart)


def whole_table(judge: Judge, given: argparse.Namespace) -> None:
    """Measure every row that was asked for, what takes longest last."""
    reloaded = {"all": given.methods, "chosen": CHOSEN}.get(given.reload, ())
    rows = [
        (merge, method)
        for method in given.methods
        for merge in (given.merges[:1] if method in LONG else given.merges)
    ]
    for merge in given.merges:
        judge.merged(merge)
    for merge, method in rows:
        judge.packed(merge, method, method in reloaded)
    peers = known(given.peer_python)
    for name in given.peers:
        for merge in given.merges:
            judge.peer(merge, peers[name])
    for grid in given.grids:
        for method in given.grid_methods:
            judge.packed(given.merges[0], method, given.reload in ("all", "chosen"), grid)
    for merge, method in rows if given.full else ():
        judge.full(merge, method)
    if given.reload == "best" and (best := judge.best()):
        judge.packed(*best, reload=True)


def by_counts(given: argparse.Namespace) -> None:
    """Measure a table for each number of tasks, and write one over them."""
    lines = []
    for count in given.counts:
        tasks = given.suite.tasks[:count]
        # The count of the main table takes its rows from there, and adds to them.
        out = given.out if list(tasks) == list(given.tasks) else given.out / f"tasks-{count}"
        with TemporaryDirectory(prefix="epmq-accuracy-") as folder:
            judge = open_judge(given, tasks, out, Path(folder))
            for merge in given.merges:
                judge.merged(merge)
            best = counts.best_merge(judge.results, given.merges)
            for method in counts.METHODS:
                judge.packed(best, method, reload=False)
            lines.append(counts.line(judge.results, best))
        counts.write(given.out, judge.results, lines)


def options() -> argparse.ArgumentParser:
    """Return the command's parser."""
    found = parser("accuracy", __doc__)
    found.add_argument("--suite", choices=SUITES, default=TEXT.name)
    found.add_argument("--data", type=Path, required=True, help="the folder of the suite's tasks")
    found.add_argument("--experts", type=Path, default=None, help="default: the suite's in ~/.cache/epmq")
    found.add_argument("--out", type=Path, default=None, help="default: the suite's in benchmarks/results")

    def some(name: str, nargs: str, known: Iterable[str], default: Sequence[str], what: str) -> None:
        """Add an option that takes some of the known names."""
        every = tuple(known)
        found.add_argument(
            name,
            nargs=nargs,
            choices=every,
            default=default,
            metavar=name.strip("-").removesuffix("s").upper(),
            help=f"{what} {'; '.join(every)}",
        )

    tasks = dict.fromkeys(task for suite in SUITES.values() for task in suite.tasks)
    some("--tasks", "+", tasks, (), "of the suite's, those of its table by default:")
    some("--merges", "+", MERGES, tuple(MERGES), "of")
    some("--methods", "*", METHODS, tuple(METHODS), "of")
    some("--grids", "*", GRIDS, (), "besides, methods on these, of")
    some("--grid-methods", "+", METHODS, (DEFAULT_METHOD,), "what is measured on --grids, of")
    some("--peers", "*", PEERS, tuple(PEERS), "of")
    found.add_argument(
        "--peer-python",
        type=Path,
        default=None,
        help="an interpreter with llmcompressor; without it that peer's rows are left out",
    )
    found.add_argument("--lines", type=int, default=1000, help="test sentences or images a task")
    found.add_argument("--samples", type=int, default=64, help="calibration sentences or images a task")
    found.add_argument(
        "--reload",
        choices=("all", "chosen", "best", "none"),
        default="chosen",
        help=(
            "which packed models are also scored as GGUF and ONNX, in their runtimes; chosen: gptq, epmq, "
            "and the default method in all its variants"
        ),
    )
    some("--formats", "+", ("gguf", "onnx"), ("gguf", "onnx"), "what is reloaded, of")
    found.add_argument(
        "--counts",
        nargs="+",
        type=int,
        choices=range(2, max(len(suite.tasks) for suite in SUITES.values()) + 1),
        metavar="N",
        help=(
            "instead of the whole table: the first N tasks for each N, best full-precision merge, gptq, "
            "epmq and the default; written as counts.md"
        ),
    )
    found.add_argument(
        "--no-full", dest="full", action="store_false", help="leave out the solves without rounding"
    )
    found.add_argument("--threads", type=int, default=None)
    found.add_argument(
        "--device", default="cpu", help="where to calibrate, and to run PyTorch: cpu, cuda or cuda:N"
    )
    found.add_argument(
        "--restart", action="store_true", help="measure every row again; without it, finished rows are kept"
    )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    given = options().parse_args(arguments)
    suite = given.suite = SUITES[given.suite]
    given.data, given.experts = given.data.resolve(), (given.experts or suite.experts).resolve()
    given.out = given.out or RESULTS / suite.results
    given.tasks = given.tasks or suite.tasks[: suite.shown]
    if unknown := [task for task in given.tasks if task not in suite.tasks]:
        raise SystemExit(f"--tasks: found {unknown[0]}, expected some of {', '.join(suite.tasks)}")
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        if given.counts:
            by_counts(given)
        else:
            with TemporaryDirectory(prefix="epmq-accuracy-") as folder:
                whole_table(open_judge(given, given.tasks, given.out, Path(folder)), given)
    except EpmqError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
