"""The parts of the page: each has a heading, sentences, plots, and tables that hold what the plots show."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from epmq_export.publishing import tables, verdict
from epmq_export.publishing.differences import Differences, shared_tasks, told_tables
from epmq_export.publishing.plots.accuracy import draw_accuracy
from epmq_export.publishing.plots.canvas import Plot
from epmq_export.publishing.plots.differences import draw_differences
from epmq_export.publishing.plots.layers import draw_layers
from epmq_export.publishing.plots.losses import draw_losses
from epmq_export.publishing.plots.storage import draw_storage
from epmq_export.publishing.plots.waterfall import draw_waterfall
from epmq_export.publishing.report import UNROUNDED, Layer, Report, StoredTensor
from epmq_export.publishing.stages import STAGES, median
from epmq_export.publishing.tables import Table
from epmq_export.publishing.words import duration, joined, several, size, small

MOST_LETTERS = 30_000
"""The letters of a recipe that are shown at most: it may name a thousand labels of each task."""


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    key: str
    """Its name in links, of letters that need no escape."""

    title: str
    paragraphs: Sequence[str] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = ()
    texts: Sequence[tuple[str, str]] = field(default=())
    """Titles and contents of texts that are shown letter by letter."""


def sections_of(report: Report, prefix: str = "") -> list[Section]:
    """Return the parts of a run's page, but for its verdict, always the same ones in the same order. `prefix`
    keeps the names of two runs in one page apart.
    """
    return [
        _losses(report, prefix),
        _scores(report, prefix),
        _steps(report, prefix),
        _layers(report, prefix),
        _storage(report, prefix),
        _checks(report),
        _provenance(report),
    ]


_NO_TASKS = "No recipe was at hand when the files were judged, so that no task was scored."


def differences_of(one: Report, other: Report, found: Differences) -> Section:
    """Return the part that compares two runs by task."""
    if not (one.scores and other.scores):
        words = ["At least one of the two has no scores, so that there is nothing to compare by task."]
        return Section("differences", "Differences by task", words)
    words = [f"Both have {several(len({*one.tasks} & {*other.tasks}), 'task')}. A gain of B is positive."]
    tasks = shared_tasks(one, other)
    apart = [task for task in tasks if not all(row[task].paired for row in found.values())]
    if len(apart) < len(tasks):
        words.append(
            "Where both answer the same lines, a difference is that of their answers line by line, and its "
            "interval leaves out what both find hard."
        )
    if apart:
        where = "" if len(apart) == len(tasks) else f"{joined(apart)}: "
        words.append(
            f"{where}The lines are not the same in both, or what single lines add to the score is not in "
            "both reports. Each score's own interval is then all that is known."
        )
    if {*one.tasks} != {*other.tasks}:
        words.append("Averages are left out, since each is over its own tasks.")
    plot = draw_differences(found, one.rows, tasks, "differences")
    if found and plot is None:
        words.append("No score differs.")
    return Section(
        "differences",
        "Differences by task",
        words,
        [] if plot is None else [plot],
        told_tables(one, other, found),
    )


def _losses(report: Report, prefix: str) -> Section:
    words = verdict.tasks_in_words(report) if report.judged else [_NO_TASKS if not report.scores else ""]
    return Section(
        "losses",
        "Files against the reference",
        [*filter(None, words)],
        draw_losses(report, f"{prefix}losses"),
        [
            *(tables.losses(report, file) for file in report.judged),
            *(tables.distribution(report, file) for file in report.judged),
        ],
    )


def _scores(report: Report, prefix: str) -> Section:
    plot = draw_accuracy(report, f"{prefix}scores")
    measures = {
        name: task.measure
        for file in report.judged
        if file.checks.tasks
        for name, task in file.checks.tasks.by_task.items()
    }
    words = (
        [_NO_TASKS]
        if plot is None
        else [
            "The reference is the calibrated 4-bit model in PyTorch, and the merged model is that before "
            "calibration, in full precision."
        ]
    )
    if UNROUNDED in report.scores:
        words.append("The unrounded model is the same calibration in full precision.")
    if unlabelled := [
        name for name, measure in measures.items() if measure in ("cosine distance", "KL divergence")
    ]:
        words.append(
            f"Without labels, the score is agreement with the task's expert: {', '.join(unlabelled)}."
        )
    if ranks := [name for name, measure in measures.items() if measure == "rank correlation"]:
        words.append(f"The score is a rank correlation, times 100: {', '.join(ranks)}.")
    return Section(
        "scores",
        "Scores by task",
        words,
        [] if plot is None else [plot],
        [tables.scores(report)] if report.scores else [],
    )


def _steps(report: Report, prefix: str) -> Section:
    plot = draw_waterfall(report, f"{prefix}steps")
    words = [] if plot else [_NO_TASKS]
    if UNROUNDED in report.scores:
        refined = ", and which `refine` has trained" if "refine" in report.search else ""
        words.append(
            "Calibration leads from the merged model to its calibration in full precision, and rounding from "
            "there to the reference, where each layer makes up for the rounding of those before it"
            f"{refined}."
        )
    elif plot is not None:
        words.append(
            "Calibration and rounding are one step here, since the model between the two was not scored: "
            "`verify.unrounded: true` in the recipe does that, for another calibration."
        )
    if plot is not None and report.layers:
        told = {attribute: small(median(report.layers, attribute)) for attribute, *_ in STAGES}
        words.append(
            f"The median loss of a layer is {told['loss_merged']} as merged, {told['loss_before']} solved "
            f"and not yet rounded, {told['loss_rounded']} after the first rounding, and "
            f"{told['loss_after']} as shipped. These are distances from the targets: how the score of a step "
            "is shared, they do not say."
        )
    return Section(
        "steps",
        "Where the score was lost",
        words,
        [plot] if plot else [],
        [tables.steps(report)] if plot else [],
    )


def _layers(report: Report, prefix: str) -> Section:
    plots, made = [], []
    for key, title, layers in _calibrations(report):
        plot = draw_layers(layers, f"{prefix}layers{key}")
        plots += [] if plot is None else [plot]
        made += [tables.layers(f"Loss by layer{title}", layers)] if layers else []
    return Section("layers", "Loss by layer", [] if plots else ["Nothing was calibrated."], plots, made)


def _calibrations(report: Report) -> list[tuple[str, str, list[Layer]]]:
    """Return a key, a title and the losses of each calibration."""
    apart = [] if report.onnx is None else [("-onnx", " (for ONNX)", report.onnx.layers)]
    return [("", "" if not apart else " (for GGUF)", report.layers), *apart]


def _storage(report: Report, prefix: str) -> Section:
    held: list[tuple[str, str, list[StoredTensor]]] = [("", "", report.tensors)]
    if report.onnx is not None:
        held.append(("-onnx", " (for ONNX)", report.onnx.tensors))
    plots = [draw_storage(tensors, f"{prefix}storage{key}") for key, _, tensors in held]
    notes = [*report.notes, *([] if report.onnx is None else report.onnx.notes)]
    return Section(
        "storage",
        "Grids and bytes",
        [*dict.fromkeys(notes)],
        [plot for plot in plots if plot is not None],
        [
            table
            for _, title, tensors in held
            for table in (
                tables.totals(f"Bytes by grid{title}", tensors),
                tables.tensors(f"Every tensor{title}", tensors),
            )
            if table.rows
        ],
    )


def _checks(report: Report) -> Section:
    return Section(
        "checks",
        "Checks and their evidence",
        [
            "Each file was reloaded in its runtime, in a process of its own, and compared with the packed "
            "checkpoint that it was written from."
        ],
        (),
        [tables.checks(report), tables.towers(report), tables.files(report)],
    )


def _provenance(report: Report) -> Section:
    words = []
    if report.seconds:
        words.append(f"The run took {duration(sum(report.seconds.values()))}.")
    if report.peak_memory_bytes is not None:
        words.append(f"It held {size(report.peak_memory_bytes)} of memory at most, without its runtimes.")
    words.append(f"{several(len(report.inputs), 'input')} decided the result; their hashes are below.")
    file = report.recipe.file
    texts = [("Method, as it was used", _json(report.method))]
    texts += [("What tune and refine did", _json(report.search))] if report.search else []
    texts.append(("Recipe, as it was written", _json(report.recipe.content)))
    return Section(
        "provenance",
        "Provenance",
        [" ".join(words), *([] if file is None else [f"The recipe's SHA-256 is {file.sha256}."])],
        (),
        [tables.inputs(report), tables.versions(report), tables.seconds(report)],
        texts,
    )


def _json(content: object) -> str:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]}\n…\nreport.json has the rest."
