"""The same recipes through mergekit and through `epmq merge`: are all tensors the same?

    python -m venv /tmp/mergekit
    /tmp/mergekit/bin/pip install torch==2.13.0
    /tmp/mergekit/bin/pip install -r benchmarks/parity/requirements.txt
    python -m benchmarks.parity --mergekit /tmp/mergekit/bin/python           (a minute)

Models are small and random (models.py), recipes are those of cases.py, under `merge_convention: mergekit`.
Random masks cannot be the same by chance: mergekit is given the numbers that we drew. Writes
mergekit_parity.json and mergekit_parity.md into --out.

A verdict names the coarsest rounding that explains the largest difference: "equal"; "float32 rounding", at
most 16 units in the last place of the tensor's largest value; for a file in 16 bits, 2 of its own units; else
"differs", which fails the script, or "known to differ", with the reason.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from safetensors.torch import save_file
from torch import Tensor

import epmq_export as epmq
from benchmarks import RESULTS
from benchmarks.commands import parser
from benchmarks.machine import machine, today
from benchmarks.parity.cases import Case, cases
from benchmarks.parity.compare import compare, text
from benchmarks.parity.models import write_models
from benchmarks.tables import write_json, write_text
from epmq_export.merging.inputs import Inputs

WORKER = Path(__file__).with_name("worker.py")


@contextmanager
def drawn(place: Path) -> Iterator[None]:
    """Write what a merge draws in the block, by model and tensor."""
    draws: dict[str, Tensor] = {}
    uniform = Inputs.uniform

    def recorded(self: Inputs, index: int, tensor: str) -> Tensor:
        value = uniform(self, index, tensor)
        draws[f"{self.settings.models[index].name}\n{tensor}"] = value.clone()
        return value

    Inputs.uniform = recorded  # type: ignore[method-assign]
    try:
        yield
    finally:
        Inputs.uniform = uniform  # type: ignore[method-assign]
        if draws:
            save_file(draws, place)


def merge(case: Case, place: Path) -> dict[str, str]:
    """Merge a case here; return the job that mergekit is to do."""
    place.mkdir()
    recipe = place / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(case.recipe, sort_keys=False), encoding="utf-8")
    with drawn(place / "draws.safetensors"):
        epmq.merge(recipe, place / "ours")
    draws = place / "draws.safetensors"
    return {
        "recipe": str(recipe),
        "output": str(place / "theirs"),
        "cache": str(place.parent / "adapters"),
        "draws": str(draws) if draws.exists() else "",
    }


def mergekit(python: Path, jobs: Sequence[Mapping[str, str]], place: Path) -> list[str | None]:
    """Return what mergekit said of each job, None where it merged."""
    (place / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    # Isolated: with the worker's own folder on its path, Python would take its files for other packages.
    command: list[str | Path] = [python.absolute(), "-I", WORKER, place / "jobs.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    answers = [
        json.loads(line.removeprefix("answer "))
        for line in done.stdout.splitlines()
        if line.startswith("answer ")
    ]
    if len(answers) != len(jobs):
        raise SystemExit(f"mergekit did {len(answers)} of {len(jobs)} merges:\n{done.stderr[-3000:]}")
    return answers


def versions(python: Path) -> dict[str, str]:
    """Return the versions of an interpreter's packages; SystemExit where it has no mergekit."""
    names = ("mergekit", "torch", "transformers")
    probe = f"import importlib.metadata as m; print(*map(m.version, {names}))"
    known = subprocess.run([python, "-c", probe], capture_output=True, text=True, check=False)
    if known.returncode:
        raise SystemExit(f"{python}: has no mergekit: {known.stderr.strip().splitlines()[-1]}")
    return dict(zip(names, known.stdout.split(), strict=True))


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("parity", __doc__)
    options.add_argument(
        "--mergekit", type=Path, required=True, metavar="PYTHON", help="a Python that has mergekit"
    )
    options.add_argument("--out", type=Path, default=RESULTS)
    given = options.parse_args(arguments)
    theirs = versions(given.mergekit)
    with TemporaryDirectory(prefix="epmq-mergekit-") as folder:
        place = Path(folder)
        write_models(place / "models")
        asked = cases(place / "models")
        jobs = [merge(case, place / str(number)) for number, case in enumerate(asked)]
        answers = mergekit(given.mergekit, jobs, place)
        rows = [
            compare(case, place / str(number), answer)
            for number, (case, answer) in enumerate(zip(asked, answers, strict=True))
        ]
    about = {
        "date": today(),
        "machine": machine(),
        "versions": theirs | {"epmq-export": version("epmq-export")},
    }
    write_json(given.out / "mergekit_parity.json", {**about, "rows": [asdict(row) for row in rows]})
    write_text(given.out / "mergekit_parity.md", text(about, rows))
    print(text(about, rows))
    if any(row.verdict.startswith(("differs", "mergekit fails")) for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
