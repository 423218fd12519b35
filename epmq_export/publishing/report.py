"""report.json as the page reads it: plain data, checked, with what is printed made printable.

`epmq_export/verification/report.schema.json` says what each key means.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from epmq_export import files
from epmq_export.errors import InputError, dotted

REPORT = "report.json"
"""The name of a run's report in its output."""

PAGE = "report.html"
"""The name of its page, beside the report."""

COMPARISON = "comparison.html"
"""The name of the page that compares a run with another one."""

FORMAT = "epmq-report-2"
AVERAGE = "average"
"""The key of the mean over tasks, in scores and intervals."""

UNROUNDED = "unrounded"
"""The row of the calibrated model before its rounding, which a run has where its recipe asks for it."""

FIXED_ROWS = ("base", "experts", "merged", UNROUNDED, "reference")
"""The rows of scores that are no files, in their order."""

_JOINERS = "\u200c\u200d"
"""The joiners of letters and emoji, which are part of a text and are nevertheless not printable to Python."""

Outcome = Literal["pass", "undecided", "fail"]
Number = Annotated[float, Field(ge=-1e15, le=1e15)]
"""A number that a plot can show."""

Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Estimate(_Part):
    """A number with its interval of 95 %, and its one-sided bounds."""

    value: Number
    low: Number
    high: Number
    lower: Number
    """The lower one-sided bound of 95 %."""

    upper: Number
    """The upper one-sided bound of 95 %, by which a loss is within its margin."""


class PairedTable(_Part):
    """How often only one of file and reference is right."""

    only_reference: int
    only_file: int
    flips: Number
    mcnemar_p: Number


class Distance(_Part):
    """How far outputs are from the reference's."""

    measure: str
    mean: Estimate
    p99: Estimate


class Distribution(_Part):
    """How near single outputs are to the reference's."""

    distance: Distance | None
    same_first: Estimate | None
    neighbours: Estimate | None


class TaskLoss(Distribution):
    """What a file loses on one task against the reference."""

    key: str
    measure: str
    lines: int
    margin: Number
    loss: Estimate
    p: Number
    p_holm: Number
    outcome: Outcome
    table: PairedTable | None
    floor: Distribution | None
    facts: dict[str, Number]


class PooledLoss(_Part):
    """The mean loss of the tasks that have one margin."""

    key: str
    measure: str
    tasks: list[str]
    lines: int
    margin: Number
    loss: Estimate
    outcome: Outcome
    resolution: Number
    enough_lines: int | None


class Worst(_Part):
    """The task that is the most surely beyond its margin."""

    task: str
    p_holm: Number
    outcome: Outcome


class Ratio(_Part):
    """The file's average score as a share of the reference's."""

    value: Number
    low: Number
    high: Number
    gate: Number
    reached: bool


class TasksCheck(_Part):
    """The check of tasks. Without an outcome the file did not run."""

    rule: str
    outcome: Outcome | None
    passed: bool
    pooled: list[PooledLoss] = []
    worst: Worst | None = None
    ratio: Ratio | None = None
    by_task: dict[str, TaskLoss] = {}


class CodesCheck(_Part):
    """The check of codes."""

    equal: bool
    tensors: int
    decoded_by_runtime: int


class MetadataCheck(_Part):
    """The check of metadata."""

    equal: bool
    differences: int


class GraphCheck(_Part):
    """The check of the graph. Without a value there was no output."""

    value: Number | None
    tolerance: Number
    passed: bool
    samples: int
    by_tower: dict[str, Number] = {}


class Checks(_Part):
    """The checks of one file in one runtime."""

    codes: CodesCheck
    metadata: MetadataCheck
    graph: GraphCheck
    tasks: TasksCheck | None


class WrittenFile(_Part):
    """A file with its hash."""

    path: str
    sha256: str
    bytes: int


class JudgedFile(WrittenFile):
    """A written model in one of its runtimes."""

    format: str
    packed: str
    others: list[WrittenFile]
    runtime: str
    runtime_version: str
    notes: dict[str, Any]
    checks: Checks

    @property
    def row(self) -> str:
        """Return the name of its row in the scores."""
        return f"{self.format} in {self.runtime}"


class Layer(_Part):
    """The loss of a tensor's solve at several points, as shares of its targets' energy."""

    tensor: str
    grid: str
    loss_merged: Number
    loss_before: Number
    loss_rounded: Number
    loss_after: Number


class StoredTensor(_Part):
    """A tensor of the packed checkpoint, without its values."""

    tensor: str
    storage: str
    """Its grid, or the type of its numbers."""

    shape: list[int]
    bytes: int


class Apart(_Part):
    """The calibration for a format that cannot hold every grid."""

    layers: list[Layer]
    notes: list[str]
    tensors: list[StoredTensor]


class About(_Part):
    """What a model is called and where it comes from."""

    name: str
    base_models: list[str] = []
    license: str | None = None
    languages: list[str] = []
    pipeline_tag: str | None = None


class RecipeFile(_Part):
    """The recipe as a file."""

    path: str
    sha256: str


class RecipeOfRun(_Part):
    """The recipe of a run."""

    file: RecipeFile | None
    content: dict[str, Any]


class Input(_Part):
    """A file that decided the result."""

    path: str
    sha256: str


class Report(_Part):
    """The content of report.json."""

    about: About
    verdict: Outcome
    broken: list[str]
    warnings: list[str]
    tasks: list[str]
    evaluated: dict[str, str] = {}
    """The SHA-256 of what each task is judged on."""

    scores: dict[str, dict[str, Number]]
    intervals: dict[str, dict[str, Interval]]
    answers: dict[str, dict[str, str | list[Number]]] = {}
    """What each row makes of each line of each task: a digit, or a number."""

    files: list[JudgedFile]
    layers: list[Layer]
    tensors: list[StoredTensor]
    notes: list[str]
    onnx: Apart | None
    method: dict[str, Any]
    search: dict[str, Any]
    recipe: RecipeOfRun
    inputs: list[Input]
    versions: dict[str, str]
    seconds: dict[str, Number]
    peak_memory_bytes: int | None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Require the scores and intervals of each row to be of all tasks."""
        tasks = {*self.tasks, AVERAGE}
        for name, rows in (("scores", self.scores), ("intervals", self.intervals)):
            for row in self.scores:
                if lacking := sorted(tasks.difference(rows.get(row, {}))):
                    raise ValueError(f"{name} of {row} has no {lacking[0]}")
        return self

    @property
    def rows(self) -> list[str]:
        """Return the rows of scores, files last."""
        return [*self.scores]

    @property
    def judged(self) -> list[JudgedFile]:
        """Return the files whose tasks were judged and that ran."""
        return [file for file in self.files if file.checks.tasks and file.checks.tasks.by_task]


def read_report(path: Path) -> Report:
    """Read report.json.

    Raises InputError, naming the key, for a file that is absent, of another format, or not whole.
    """
    return report_of(files.read_json(path), path)


def report_of(content: dict[str, Any], path: Path) -> Report:
    """Return the content of report.json, checked. `path` is where it is from."""
    if content.get("format") != FORMAT:
        found = content.get("format")
        raise InputError(
            f"{path}: format is {found!r:.80}, expected {FORMAT!r}: `epmq verify OUT --json {path}` writes it"
        )
    try:
        return Report.model_validate(printable(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = f"{dotted(first['loc'])}: " if first["loc"] else ""
        raise InputError(f"{path}: {place}{first['msg'].removeprefix('Value error, ')}") from None


def printable(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return JSON with every character that is not printable as an escape. No text of a file shall control
    what shows it, and not every character can stand in a page.
    """
    if isinstance(value, str):
        return "".join(
            letter
            if letter.isprintable() or letter in _JOINERS
            else letter.encode("unicode_escape").decode("ascii")
            for letter in value
        )
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [printable(item) for item in value]
    return value
