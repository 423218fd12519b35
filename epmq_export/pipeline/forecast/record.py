"""What a forecast says."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from epmq_export.pipeline.forecast.around import AroundForecast
from epmq_export.pipeline.forecast.costs import Memory, Samples, Speed, Work
from epmq_export.pipeline.forecast.inventory import Found
from epmq_export.pipeline.forecast.refining import RefineForecast
from epmq_export.pipeline.forecast.verifying import VerifyForecast


@dataclass(frozen=True)
class FileForecast:
    """A file that a run writes."""

    format: str
    """The name of its format."""

    path: str
    """Where it lies in the format's directory."""

    bytes: int
    """How large it is."""

    types: Mapping[str, int]
    """The bytes of its data by their type, and as `rest` those of all else."""


@dataclass(frozen=True)
class Time:
    """How long the calibration takes."""

    seconds: tuple[float, float]
    """The least and the most."""

    calibrations: tuple[int, int]
    """How many calibrations the recipe asks for, those of its searches included: the least and the most."""

    speed: Speed
    """What the times are computed from."""


@dataclass(frozen=True)
class Forecast:
    """What a run of a recipe will do, write, hold in memory and take.

    What cannot be said without the base's config and tokenizer is None or empty.
    """

    recipe: str
    """The recipe's file."""

    models: Sequence[Found]
    """The base, then the experts."""

    data: Sequence[Found]
    """The data of the tasks."""

    merge: str
    """The merge rule, and what it costs."""

    method: str
    """The calibration method, and its numbers."""

    unknown: Sequence[str]
    """What cannot be said, and why, a sentence each."""

    task_vectors: str | None = None
    """How far the experts that are here lie from the base, and how much they have in common."""

    family: str | None = None
    """The name of the model family."""

    grids: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What each calibrated linear is stored on, by format and by name."""

    notes: Sequence[str] = ()
    """What is not stored as the recipe asks in general, a sentence each."""

    files: Sequence[FileForecast] = ()
    """The files that are written."""

    samples: Samples | None = None
    """What is calibrated on."""

    passes: Mapping[str, int] = field(default_factory=dict)
    """How many batches there are, and how often one goes through a block of the student and of an expert."""

    memory: Memory | None = None
    """What the calibration holds at the peak."""

    verify: VerifyForecast | None = None
    """What the verification holds at the peak; None where grids are chosen by measured loss."""

    work: Work | None = None
    """What one calibration computes."""

    time: Time | None = None
    """How long it takes."""

    refine: RefineForecast | None = None
    """What refining behind the calibration takes; None where the recipe asks for none."""

    around: AroundForecast | None = None
    """How long merging, writing, scoring and verifying take; None where too little of it is known."""

    @property
    def seconds(self) -> tuple[float, float] | None:
        """Return how long the whole run takes, the least and the most, as far as its stages are known."""
        if self.time is None or self.around is None:
            return None
        refine = (0.0, 0.0) if self.refine is None else self.refine.seconds
        least, most = zip(self.time.seconds, refine, self.around.whole, strict=True)
        return sum(least), sum(most)

    def as_dict(self) -> dict[str, Any]:
        """Return the forecast for JSON, as `epmq run --dry-run --json` prints it."""
        found = asdict(self)
        for place, each in zip([*found["models"], *found["data"]], [*self.models, *self.data], strict=True):
            place["state"] = each.sentence
        if self.memory is not None:
            found["memory"]["peak"] = self.memory.peak
        if self.verify is not None:
            found["verify"]["peak"] = self.verify.peak
        found["seconds"] = self.seconds
        return found
