"""Why the anchor works, measured: accuracy on held-out training lines along each of the method's numbers, one
at a time.

    python -m benchmarks.study --data DATA/text                    (hours on two cores; finished rows are
                                                                   kept, so it can be stopped)
    python -m benchmarks.study --data DATA/text --only length direction

Every row is one calibration in full precision, `anchored` but for what the row names. It is judged on lines
of `train.tsv.gz` that no expert learned from and that no calibration sees: settings may be chosen on them.
Nothing here reads a test line.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import RESULTS
from benchmarks.accuracy.suites import TEXT
from benchmarks.commands import parser
from benchmarks.machine import machine, today
from benchmarks.study.axes import AXES, USUAL, planned
from benchmarks.study.held_out import HeldOut, method_of
from benchmarks.tables import write_json

STUDY = RESULTS / "study.json"


def study(data: Path, experts: Path, axes: Sequence[str], count: int, out: Path) -> None:
    """Measure the rows along some axes that `out` has not, and save each; SystemExit where it has rows of
    other numbers.
    """
    about = {"method": asdict(method_of(USUAL)), "lines": count, "machine": machine()}
    found: dict[str, Any] = (
        json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"about": about, "rows": []}
    )
    if any(found["about"][key] != about[key] for key in ("method", "lines")):
        raise SystemExit(f"{out}: made with other numbers; remove it to measure anew")
    held_out = HeldOut.open(data, experts, count)
    for what in planned(axes):
        if any(row["what"] == what for row in found["rows"]):
            continue
        row = {"what": what, **held_out.row(what)}
        found["rows"].append(row)
        found["about"]["date"] = today()
        write_json(out, found)
        print(
            {key: value for key, value in what.items() if value != USUAL[key]} or "usual",
            f"{100 * row['accuracy']:.1f} of {100 * row['experts']:.1f} divergence {row['divergence']:.4f}",
            f"cosine {row['cosine']:.3f} gain {row['gain']:.2f} rho {row['rho']:.2f}",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("study", __doc__)
    options.add_argument("--data", type=Path, required=True, help="the folder of the text tasks")
    options.add_argument("--experts", type=Path, default=TEXT.experts)
    options.add_argument(
        "--only", nargs="+", choices=AXES, default=tuple(AXES), metavar="AXIS", help=f"of {', '.join(AXES)}"
    )
    options.add_argument("--lines", type=int, default=150, help="held-out lines a task")
    options.add_argument("--out", type=Path, default=STUDY, help="the JSON file that rows are added to")
    given = options.parse_args(arguments)
    study(given.data, given.experts, given.only, given.lines, given.out)


if __name__ == "__main__":
    main()
