"""Runs recipes through mergekit; the Python that has mergekit runs it, for benchmarks.parity.

    python worker.py JOBS.json

A job is a recipe, an output, a cache for merged adapters, and a safetensors file of the random numbers that
the recipe's merge is to draw, by model and tensor: masks can then be compared. The answer is one line a job
on stdout: "answer null", or what mergekit said, as JSON.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from mergekit.architecture import NAME_TO_ARCH
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.merge_methods import generalized_task_arithmetic as rules
from mergekit.options import MergeOptions
from safetensors.torch import load_file

DRAWS: dict[str, torch.Tensor] = {}
waiting: Iterator[str] = iter(())
current = ""

merge_group, sparsify = rules.GeneralizedTaskArithmeticMerge.merge_group, rules.sparsify


def named_merge_group(self: Any, group: Any, /, **parameters: Any) -> torch.Tensor:  # noqa: ANN401
    global waiting
    waiting = iter([f"{entry.id}\n{group.metadata.name}" for entry in group.non_base])
    result: torch.Tensor = merge_group(self, group, **parameters)
    return result


def named_sparsify(*args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401
    global current
    current = next(waiting)
    result: torch.Tensor = sparsify(*args, **kwargs)
    return result


def given_bernoulli(share: torch.Tensor) -> torch.Tensor:
    return (DRAWS[current].reshape(share.shape) < share).to(share.dtype)


def main() -> None:
    rules.GeneralizedTaskArithmeticMerge.merge_group = named_merge_group
    rules.sparsify = named_sparsify
    torch.bernoulli = given_bernoulli  # type: ignore[assignment]
    # mergekit 0.1.5 stumbles over every optional tensor that has aliases (a list plus a tuple). BERT's is
    # position_ids, which no model here has.
    weights = NAME_TO_ARCH["BertModel"][0].modules["default"].architecture.definition.pre_weights
    weights[:] = [weight for weight in weights if not weight.optional]
    for job in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        DRAWS.clear()
        if job["draws"]:
            DRAWS.update(load_file(job["draws"]))
        failure = None
        try:
            asked = MergeConfiguration.model_validate(
                yaml.safe_load(Path(job["recipe"]).read_text(encoding="utf-8"))
            )
            run_merge(
                asked,
                job["output"],
                MergeOptions(
                    quiet=True, lora_merge_cache=job["cache"], write_model_card=False, clone_tensors=True
                ),
            )
        except Exception as error:  # whatever it is, it is this job's answer
            failure = f"{type(error).__name__}: {error}"
        sys.stdout.write("answer " + json.dumps(failure) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
