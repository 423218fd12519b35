"""The same recipes through mergekit and through `epmq merge`: are all tensors the same?

    python -m venv /tmp/mergekit
    /tmp/mergekit/bin/pip install torch==2.13.0
    /tmp/mergekit/bin/pip install -r benchmarks/parity/requirements.txt
    python -m benchmarks.parity --mergekit /tmp/mergekit/bin/python           (a minute)

Models are small and random (models.py), recipes are those of cases.py, under
`merge_convention: mergekit`. Random masks cannot be the same by chance: mergekit is given the numbers that we
drew. Writes mergekit_parity.json and mergekit_parity.md.

A verdict names the coarsest rounding that explains the largest difference: "equal"; "float32 rounding", at
most 16 units in the last place of the tensor's largest value; for a file in 16 bits, 2 of its own units; else
"differs", which fails the script, or "known to differ", with the reason.
"""

import argparse
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer

from benchmarks import RESULTS
from benchmarks.machine import machine
from benchmarks.parity.cases import Case, cases
from benchmarks.parity.models import write_models
from converters import frozen
from converters.from_gguf.checkpoint import GgufBase
from epmq_export.files import read_json
from epmq_export.merging.hf_directory import model_card, write_merged
from epmq_export.merging.inputs import Inputs
from epmq_export.pipeline.merge import merge as merge_models
from epmq_export.pipeline.models import open_checkpoints
from epmq_export.recipe.load import load_recipe
from epmq_export.tensors.checkpoint import Checkpoint, open_checkpoint
from epmq_export.tensors.shards import SHARD_BYTES

WORKER = Path(__file__).with_name("worker.py")
COMPARED = ("num_hidden_layers", "num_layers", "num_decoder_layers", "vocab_size", "dtype")
UNITS = {torch.float32: 16, torch.float16: 2, torch.bfloat16: 2}


@dataclass(frozen=True)
class Row:
    rule: str
    feature: str
    tensors: int
    absolute: float
    """Largest difference."""

    relative: float
    """The same as a share of the tensor's largest value."""

    verdict: str


@contextmanager
def drawn(place: Path) -> Iterator[None]:
    """Write what a merge draws, by model and tensor."""
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


def _merge(path: Path, output: Path) -> None:
    """Write the merge of a recipe as `epmq merge` does."""
    recipe = load_recipe(path)
    opened = open_checkpoints(recipe, GgufBase)
    made = merge_models(recipe, opened, frozen(opened.base.model_directory))
    card = model_card(
        recipe.base_model,
        [model.model for model in recipe.experts],
        recipe.merge_method,
        path.read_text(encoding="utf-8"),
    )
    write_merged(output, made.source, made.directory, card, SHARD_BYTES, made.config, made.tokenizer)


def merge(case: Case, place: Path) -> dict[str, str]:
    """Merge here; the job that mergekit is to do."""
    place.mkdir()
    recipe = place / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(case.recipe, sort_keys=False), encoding="utf-8")
    with drawn(place / "draws.safetensors"):
        _merge(recipe, place / "ours")
    draws = place / "draws.safetensors"
    return {
        "recipe": str(recipe),
        "output": str(place / "theirs"),
        "cache": str(place.parent / "adapters"),
        "draws": str(draws) if draws.exists() else "",
    }


def mergekit(python: Path, jobs: Sequence[Mapping[str, str]], place: Path) -> list[str | None]:
    """What mergekit said of each job, None where it merged."""
    (place / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    done = subprocess.run([python, WORKER, place / "jobs.json"], capture_output=True, text=True, check=False)
    answers = [
        json.loads(line.removeprefix("answer "))
        for line in done.stdout.splitlines()
        if line.startswith("answer ")
    ]
    if len(answers) != len(jobs):
        raise SystemExit(f"mergekit did {len(answers)} of {len(jobs)} merges:\n{done.stderr[-3000:]}")
    return answers


def compare(case: Case, place: Path, failure: str | None) -> Row:
    if failure is not None:
        return Row(case.rule, case.feature, 0, float("nan"), float("nan"), f"mergekit fails: {failure}")
    ours, theirs = open_checkpoint(place / "ours"), open_checkpoint(place / "theirs")
    if set(ours.names()) != set(theirs.names()):
        only = sorted(set(ours.names()) ^ set(theirs.names()))
        return Row(
            case.rule,
            case.feature,
            len(ours.names()),
            float("nan"),
            float("nan"),
            f"differs: {only[0]} and {len(only) - 1} others are in one only",
        )
    said = [
        {key: read_json(place / whose / "config.json").get(key) for key in COMPARED}
        for whose in ("ours", "theirs")
    ]
    if said[0] != said[1]:
        return Row(
            case.rule,
            case.feature,
            len(ours.names()),
            float("nan"),
            float("nan"),
            f"differs: config.json has {said[0]}, mergekit's {said[1]}",
        )
    order = _rows(place) if {"tokenizer", "tokenizer_source"} & set(case.recipe) else None
    return _judged(case, ours, theirs, order)


def _judged(case: Case, ours: Checkpoint, theirs: Checkpoint, order: Tensor | None) -> Row:
    absolute, relative, coarsest, verdict = 0.0, 0.0, 0.0, "equal"
    for name in ours.names():
        one, other = ours.load(name), theirs.load(name)
        if one.dtype != other.dtype or one.shape != other.shape:
            return Row(
                case.rule,
                case.feature,
                len(ours.names()),
                float("nan"),
                float("nan"),
                f"differs: {name} is {one.dtype} {list(one.shape)}",
            )
        if order is not None and ("embed_tokens" in name or "lm_head" in name):
            one = torch.cat((one[order], one[len(order) :]))
        difference = float((one.double() - other.double()).abs().max())
        share = difference / max(float(other.double().abs().max()), 1e-30)
        absolute, relative = max(absolute, difference), max(relative, share)
        if one.is_floating_point() and difference > 0 and share / torch.finfo(one.dtype).eps > coarsest:
            coarsest = share / torch.finfo(one.dtype).eps
            verdict = (
                f"{str(one.dtype).removeprefix('torch.')} rounding"
                if coarsest <= UNITS[one.dtype]
                else f"differs: {name}"
            )
    if case.known and verdict.startswith("differs"):
        verdict = f"known to differ: {case.known}"
    return Row(case.rule, case.feature, len(ours.names()), absolute, relative, verdict)


def _rows(place: Path) -> Tensor:
    """For each row of mergekit's embeddings, ours of the same token: a union's new tokens have no order of
    their own.
    """
    ours, theirs = (AutoTokenizer.from_pretrained(place / whose).get_vocab() for whose in ("ours", "theirs"))
    if set(ours) != set(theirs):
        raise SystemExit(f"{place}: the tokenizers have other tokens: {sorted(set(ours) ^ set(theirs))[:5]}")
    return torch.tensor([ours[token] for token in sorted(theirs, key=lambda token: int(theirs[token]))])


def table(rows: Sequence[Row], about: dict[str, Any]) -> str:
    lines = [
        "# The same recipes through mergekit and epmq merge",
        "",
        (
            f"Written by `python -m benchmarks.parity` on {about['date']}: mergekit "
            f"{about['versions']['mergekit']}, torch {about['versions']['torch']};"
        ),
        (
            f"{about['machine']}. Small random models, `merge_convention: mergekit`; the verdicts are "
            "explained in the script."
        ),
        "",
        "| rule | recipe | tensors | largest difference | relative | verdict |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        (
            f"| {row.rule} | {row.feature} | {row.tensors} | {row.absolute:.1e} | {row.relative:.1e} | "
            f"{row.verdict} |"
        )
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--mergekit", type=Path, required=True, metavar="PYTHON", help="a Python that has mergekit"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    probe = (
        "import importlib.metadata as m; print(m.version('mergekit'), m.version('torch'), "
        "m.version('transformers'))"
    )
    known = subprocess.run([given.mergekit, "-c", probe], capture_output=True, text=True, check=False)
    if known.returncode:
        raise SystemExit(f"{given.mergekit}: has no mergekit: {known.stderr.strip().splitlines()[-1]}")
    theirs = dict(zip(("mergekit", "torch", "transformers"), known.stdout.split(), strict=True))
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
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": theirs | {"epmq-export": version("epmq-export")},
    }
    text = table(rows, about)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "mergekit_parity.md").write_text(text, encoding="utf-8")
    (given.out / "mergekit_parity.json").write_text(
        json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=1) + "\n", encoding="utf-8"
    )
    print(text)
    if any(row.verdict.startswith(("differs", "mergekit fails")) for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
