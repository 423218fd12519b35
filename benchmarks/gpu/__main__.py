"""The check on a GPU: calibrations on both devices, true shapes, and written files read back, as one table.

    benchmarks/gpu/check.sh                    # the tests of GPUs and all of this, on a bare machine
    benchmarks/gpu/check.sh --cpu --tiny       # the script itself, tried on a machine without a GPU
    python -m benchmarks.gpu --work DIR        # all of this alone

What begins too late to end within --seconds is left out, and the table says so.
"""

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks.commands import parser
from benchmarks.gpu.minilm import minilm
from benchmarks.gpu.row import HEAD, Request, Row, page
from benchmarks.gpu.shapes import images, large_language, small_language
from benchmarks.tables import write_text

# Each check with the seconds that it may take on an H100 with 16 cores: estimates, until it has been run.
CHECKS: Mapping[str, tuple[Callable[[Request], Iterator[Row]], float]] = {
    "minilm": (minilm, 100),
    "small": (small_language, 40),
    "images": (images, 60),
    "large": (large_language, 60),
}


def rows(request: Request, names: Sequence[str], seconds: float) -> Iterator[Row]:
    """Yield the rows of the checks. One that fails is a row that says why, and the others go on."""
    started = time.monotonic()
    for name in names:
        check, needed = CHECKS[name]
        left = seconds - (time.monotonic() - started)
        if left < needed and not request.tiny:
            yield Row(name, request.device, remarks=f"left out: {left:.0f} s were left", passed=False)
            continue
        try:
            yield from check(request)
        except Exception as error:
            traceback.print_exc()
            sentence = f"{type(error).__name__}: {error}".replace("\n", " ").replace("|", "/")[:300]
            yield Row(name, request.device, remarks=sentence, passed=False)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser("gpu", __doc__)
    options.add_argument("checks", nargs="*", metavar="CHECK", help=f"some of {', '.join(CHECKS)}")
    options.add_argument("--device", default="cuda", help="the device that is checked; default: cuda")
    options.add_argument("--tiny", action="store_true", help="small shapes, to try the check itself")
    options.add_argument("--seconds", type=float, default=360, help="the time for all; default: 360")
    options.add_argument("--work", type=Path, required=True, help="a new folder for what is written")
    options.add_argument("--minilm", type=Path, help="MiniLM's directory; default: its package's")
    options.add_argument("--out", type=Path, help="the table, in Markdown; default: table.md in --work")
    given = options.parse_args(arguments)
    unknown = sorted(set(given.checks) - set(CHECKS))
    if unknown:
        options.error(f"found {', '.join(unknown)}, expected some of {', '.join(CHECKS)}")
    given.work.mkdir(parents=True)
    base = given.minilm and given.minilm.resolve()
    request = Request(torch.device(given.device), given.tiny, given.work.resolve(), base)
    found: list[Row] = []
    out = given.out or given.work / "table.md"
    for row in rows(request, given.checks or [*CHECKS], given.seconds):
        found.append(row)
        print(json.dumps(dict(zip(HEAD, row.cells(), strict=True))), flush=True)
        write_text(out, page(found, request.device, given.tiny))  # What is known stays if the time is up.
    print(f"\n{out.read_text(encoding='utf-8')}")
    return 0 if all(row.passed for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
