"""Four checks of a written file, each for its own fault. The last has a file of its own.

codes     Every tensor in the file is bit for bit that of the packed checkpoint, also when the runtime's own
          dequantiser, where it has one, decodes it.
metadata  Every key, tokenizer entry and file beside the model is what the packed checkpoint says.
graph     The runtime, kept from low-precision kernels, computes what PyTorch computes. Wrong names,
          permutations, pooling, normalisation or tokenisation show here.
tasks     The file itself, as users run it, is as accurate as the reference (tasks_check.py).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.files.scratch import Scratch
from epmq_export.models import reference
from epmq_export.models.family import Export, Family, language_of, rows
from epmq_export.models.format import WrittenModel
from epmq_export.models.heap import give_back
from epmq_export.models.runtime import Dequantiser, Runtime
from epmq_export.models.samples import Pair, Passage, Sample, shown, text_of
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.verification.probes import probes
from epmq_export.verification.tasks.bench import Outputs

METRIC = "rms_relative"


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    """One of `codes`, `metadata`, `graph` and `tasks`."""

    facts: Mapping[str, Any]
    """The facts for the report. report.schema.json has their keys."""

    broken: Sequence[str]
    """A sentence for each fault. Empty where there is none."""

    warnings: Sequence[str] = ()
    """A sentence for each doubt that is no fault."""

    @property
    def passed(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.broken


@dataclass(frozen=True)
class CodesCheck(Check):
    """The outcome of `check_codes`, of a file whatever runs it."""

    decoded: Mapping[str, int] = field(default_factory=dict)
    """How many tensors each runtime's own dequantiser decoded to the same bits, by the runtime's name."""

    def of(self, runtime: str) -> Check:
        """Return the outcome for one of the runtimes."""
        return Check(self.name, {**self.facts, "decoded_by_runtime": self.decoded[runtime]}, self.broken)


def check_codes(
    model: WrittenModel, packed: Packed, left_out: Collection[str], runtimes: Sequence[Runtime]
) -> CodesCheck:
    """Compare every tensor of the files with that of the packed checkpoint, but for tensors that the format
    leaves out, also as the runtimes' own dequantisers decode it.
    """
    path, expected = model.path, set(packed.names()).difference(left_out)
    seen: set[str] = set()
    broken: list[str] = []
    decoded = dict.fromkeys((runtime.name for runtime in runtimes), 0)
    # A runtime looks for its version before it gives one: once is enough.
    theirs = [(runtime.name, runtime.dequantiser) for runtime in runtimes]
    try:
        for stored in model.tensors():
            seen.add(stored.name)
            if stored.name not in expected:
                broken.append(f"{path}: tensor {stored.name} is not in the packed checkpoint")
                continue
            ours = packed.load(stored.name) if stored.decoded else packed.tensor(stored.name)
            difference = _difference(ours, stored.value)
            if difference is not None:
                broken.append(f"{path}: tensor {stored.name}: {difference}")
            elif stored.raw is not None and isinstance(ours, PackedTensor):
                for runtime, dequantiser in theirs:
                    if dequantiser is None:
                        continue
                    difference = _decoded_otherwise(ours, stored.raw, runtime, dequantiser)
                    if difference is None:
                        decoded[runtime] += 1
                    else:
                        broken.append(f"{path}: tensor {stored.name}: {difference}")
    except InputError as error:
        broken.append(str(error))
    else:
        broken += [
            f"{path}: tensor {name} of the packed checkpoint is missing" for name in sorted(expected - seen)
        ]
    return CodesCheck("codes", {"equal": not broken, "tensors": len(seen)}, broken, decoded=decoded)


def _decoded_otherwise(
    ours: PackedTensor, raw: NDArray[np.uint8], runtime: str, dequantiser: Dequantiser
) -> str | None:
    """Return the fault of a tensor's bytes as the runtime's own dequantiser decodes them, or None where there
    is none.
    """
    try:
        own = dequantiser(ours.grid.file_type, raw, ours.codes.numel())
    except InputError as error:
        # A grid that it does not know is a fault, so that no check is silently weaker.
        return str(error)
    if np.array_equal(own.view(np.uint32), ours.dequantise().numpy().reshape(-1).view(np.uint32)):
        return None
    return f"{runtime} decodes other values than the packed checkpoint holds"


def _difference(ours: PackedTensor | Tensor, stored: PackedTensor | Tensor) -> str | None:
    """Return the difference between two tensors in words, or None where they are equal bit for bit."""
    if isinstance(ours, PackedTensor) != isinstance(stored, PackedTensor):
        return f"found {_kind(stored)}, expected {_kind(ours)}"
    if isinstance(ours, PackedTensor) and isinstance(stored, PackedTensor):
        if ours.codes.shape != stored.codes.shape or stored.grid.name not in (
            ours.grid.name,
            ours.grid.file_type,
        ):
            return (
                f"found {_kind(stored)} {list(stored.codes.shape)}, expected {_kind(ours)} "
                f"{list(ours.codes.shape)}"
            )
        pairs = {
            "codes": (ours.codes, stored.codes),
            **{part: (numbers, stored.stored[part]) for part, numbers in ours.stored.items()},
        }
        counts = {part: _differing(one, other) for part, (one, other) in pairs.items()}
        sentence = " and ".join(f"{counts[part]} of {one.numel()} {part}" for part, (one, _) in pairs.items())
        return f"{sentence} differ" if any(counts.values()) else None
    assert isinstance(ours, Tensor) and isinstance(stored, Tensor)
    if ours.shape != stored.shape:
        return f"found shape {list(stored.shape)}, expected {list(ours.shape)}"
    different = int((ours.float().view(torch.int32) != stored.float().view(torch.int32)).sum())
    return f"{different} of {ours.numel()} values differ" if different else None


def _differing(one: Tensor, other: Tensor) -> int:
    """Return how many numbers differ in a bit."""
    bits = {1: torch.uint8, 2: torch.int16}[one.element_size()]
    return int((one.view(bits) != other.view(bits)).sum())


def _kind(value: PackedTensor | Tensor) -> str:
    return (
        f"grid {value.grid.name}"
        if isinstance(value, PackedTensor)
        else str(value.dtype).removeprefix("torch.")
    )


def check_metadata(model: WrittenModel, packed: Packed) -> Check:
    """Compare everything but the tensors with the packed checkpoint."""
    try:
        differences = [f"{model.path}: {difference}" for difference in model.differences(packed)]
    except InputError as error:
        differences = [str(error)]
    return Check("metadata", {"equal": not differences, "differences": len(differences)}, differences)


def check_graph(
    model: WrittenModel, packed: Packed, export: Export, runtime: Runtime, tolerance: float
) -> Check:
    """Compare the outputs of every tower in every file for a fixed set of hard samples, which need no data of
    the user's. The largest difference counts.
    """
    facts: dict[str, Any] = {
        "metric": METRIC,
        "value": None,
        "tolerance": tolerance,
        "passed": False,
        "samples": 0,
    }
    broken: list[str] = []
    values: dict[str, float] = {}
    try:
        for file, towers in model.files(export.computed()).items():
            if not towers:  # The file belongs to another one, which is run.
                continue
            with Scratch("verify") as scratch:
                exact = model.exact(file, scratch)
                for tower in towers:
                    samples = [tower.truncate(sample) for sample in _probes(tower, export, runtime)]
                    expected = reference.outputs(tower, packed, samples, torch.device("cpu"))
                    give_back()
                    found = runtime.outputs(exact, samples, exact=True)
                    values[f"{file.name}: {tower.name}"] = value = rms_relative(found, expected)
                    facts["samples"] += len(samples)
                    if not value <= tolerance:
                        of_row = [sample for sample in samples for _ in range(rows(tower, sample))]
                        worst = shown(of_row[int(np.argmax(np.square(found - expected).sum(1)))])
                        sentence = (
                            f"{file}: {METRIC} difference between {runtime.name} and PyTorch is "
                            f"{value:.2e}, tolerance {tolerance:.0e}"
                        )
                        broken.append(f"{sentence}; largest on {worst}")
    except InputError as error:
        return Check("graph", facts, [str(error)])
    facts |= {"value": max(values.values()), "passed": not broken, "by_tower": values}
    return Check("graph", facts, broken)


def _probes(tower: Family, export: Export, runtime: Runtime) -> Sequence[Sample]:
    """Return the probes of a tower that its runtime's tokenizer can agree on."""
    found = probes(tower)
    if tower.images is not None:
        return found
    found = [sample for sample in found if all(runtime.reads(text) for text in _read(sample))]
    found = [sample for sample in found if not isinstance(sample, Passage) or predictable(tower, sample)]
    if export.agrees is None:
        return found
    agrees = export.agrees()
    return [sample for sample in found if all(agrees(text) for text in _read(sample))]


def _read(sample: Sample) -> tuple[str, ...]:
    """Return the texts of a sample that a runtime's tokenizer is given, in one piece or apart."""
    match sample:
        case Passage():
            return sample.context, sample.target, sample.context + sample.target
        case Pair():
            return sample.first, sample.second
        case _:
            return (text_of(sample),)


def predictable(family: Family, passage: Passage) -> bool:
    """Return whether the target of a passage has tokens of its own. A tokenizer that makes one token of
    everything that it does not know may find none.
    """
    try:
        return bool(language_of(family).targets(passage))
    except InputError:
        return False


def rms_relative(found: Outputs, expected: Outputs) -> float:
    """Return ||found - expected|| / ||expected|| over all outputs. Raises InputError where they cannot be
    compared.
    """
    if found.shape != expected.shape:
        raise InputError(
            f"the runtime gives outputs of shape {list(found.shape)}, expected {list(expected.shape)}"
        )
    if not np.isfinite(found).all():
        raise InputError("the runtime gives outputs that are not finite")
    # Row by row, since the scores of a language model in float64 would take more memory than the model.
    squares = [
        (np.square(one.astype(np.float64) - other).sum(), np.square(other.astype(np.float64)).sum())
        for one, other in zip(found, expected, strict=True)
    ]
    differing, whole = np.sum(squares, 0)
    return float(np.sqrt(differing / whole))
