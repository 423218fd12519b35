"""The stage `verify`: written files are reloaded in their runtimes and judged."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from epmq_export import files
from epmq_export.errors import InputError
from epmq_export.files.scratch import Scratch
from epmq_export.grids import GRIDS
from epmq_export.models.classifiers import Classifier
from epmq_export.models.family import Family, default_formats, heads_of
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.progress import Stages
from epmq_export.pipeline.publish import write_card
from epmq_export.pipeline.registry import Registry
from epmq_export.pipeline.targets import PACKED
from epmq_export.pipeline.unrounded import unrounded
from epmq_export.publishing.report import REPORT
from epmq_export.recipe.load import load_recipe
from epmq_export.recipe.published import published
from epmq_export.recipe.recipe import Recipe, RecipeVerify
from epmq_export.tensors.packed import Packed
from epmq_export.verification.judge import Judge
from epmq_export.verification.report import Report
from epmq_export.verification.verdict import Verdict
from epmq_export.verification.verify import Written
from epmq_export.verification.verify import verify as verify_files

log = logging.getLogger(__name__)


def verify(
    registry: Registry,
    output: Path,
    formats: Sequence[str],
    job: Job | None,
    report: Path | None,
    stages: Stages,
) -> Verdict:
    """Judge the files of an output, each against the packed checkpoint that it was written from.

    Without names of formats, all that are there are judged. Without a job, tasks are left out, and the
    tolerances are those of the recipe that the packed checkpoint records. The report, where one is asked for,
    is written whole or not at all, and so is its page beside it. Raises InputError where nothing is there to
    judge.
    """
    packed = Packed(output / PACKED)
    family = registry.open_family(packed.directory)
    formats = formats or _there(output, family, packed)
    asked = job.recipe.verify if job is not None else _asked(packed)
    apart = {name: Packed(place) for name in formats if (place := output / f"{PACKED}-{name}").exists()}
    written = [
        Written(
            path=registry.formats[name].find(output / name, family),
            format=registry.formats[name],
            runtimes=registry.readers(family, name, asked.clients),
            packed=apart.get(name, packed),
        )
        for name in formats
    ]
    judge = None
    if job is not None:
        _require_same_classifiers(job, heads_of(family), packed.directory)
        if published(job.recipe.source, job.recipe.directory) != packed.index.recipe:
            log.warning("%s is not the recipe that %s was made with", job.recipe.path, packed.directory)
        judge = _judge(job, packed, stages)
    with stages.stage("verify") as update:
        verdict = verify_files(written, family, asked, judge, lambda text: update(text, 0, 0))
    if report is not None:
        recipe = None if job is None else job.recipe
        Report(
            packed=packed,
            apart={name: apart.get(name) for name in _partial(registry)},
            packages=_packages(registry),
            verdict=verdict,
            recipe=None if recipe is None else recipe.path,
            base=None if recipe is None else recipe.stand_in,
            seconds=stages.seconds,
        ).write(report)
        if not files.is_stream(report):
            # This loads matplotlib, which nothing else needs.
            from epmq_export.publishing.page import write_page

            write_page(report, page_of_report(report))
        if report.absolute() == (output / REPORT).absolute():
            write_card(output)
    return verdict


def _require_same_classifiers(job: Job, own: Sequence[Classifier], packed: Path) -> None:
    """Raise RecipeError where a recipe's tasks are not read by the classifiers that an output has, in their
    order.
    """
    found, expected = (
        [f"{head.task} ({len(head.classes)})" for head in heads]
        for heads in (heads_of(job.models.family), own)
    )
    if found != expected:
        raise job.recipe.mistake(
            ("tasks",),
            f"found the classifiers of {', '.join(found) or 'no task'}, expected those of {packed} in their "
            f"order: {', '.join(expected) or 'none'}",
        )


def require_output(output: Path) -> None:
    """Raise InputError where a place is not what a run has left."""
    if (output / PACKED).is_dir():
        return
    if not output.exists():
        raise InputError(f"{output}: no such directory, expected what `epmq run` has left")
    near = f", did you mean {str(output.parent)!r}?" if (output.parent / PACKED).is_dir() else ""
    raise InputError(f"{output}: found no {PACKED} in it, expected what `epmq run` has left{near}")


def page_of_report(report: Path) -> Path:
    """Return the place of the page of a report: beside it, and of its name."""
    return report.with_name(f"{report.name.removesuffix('.json')}.html")


def recipe_of(output: Path) -> Recipe | None:
    """Return the recipe that a run's report names, if it is still there, with the base model that the run
    had. Otherwise log a warning and return None.
    """
    report = output / REPORT
    try:
        told = json.loads(report.read_text(encoding="utf-8"))["recipe"]["file"]
        named, base = Path(told["path"]), Path(told.get("base") or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        log.warning("%s names no recipe, so the tasks are not checked: give --recipe", report)
        return None
    if not named.is_file():
        log.warning("the recipe %s is gone, so the tasks are not checked: give --recipe", named)
        return None
    recipe = load_recipe(named)
    return recipe.with_base(base) if base.is_absolute() and base.is_dir() else recipe


def _there(output: Path, family: Family, packed: Packed) -> list[str]:
    """Return the formats that an output has. Log those that its recipe asks for and that are not there."""
    names = [name for name in family.exports if (output / name).is_dir()]
    if not names:
        raise InputError(
            f"{output}: found none of {', '.join(family.exports)}, expected the directories that "
            "`epmq export` writes"
        )
    asked = packed.index.recipe.get("export", {}).get("formats") or default_formats(family)
    if missing := [name for name in asked if name not in names]:
        log.warning(
            "%s: found no %s, which the recipe asks for: not checked", output, " and no ".join(missing)
        )
    return names


def _asked(packed: Packed) -> RecipeVerify:
    """Return what the recipe that a packed checkpoint was made by asks of the verification."""
    return RecipeVerify.model_validate(packed.index.recipe.get("verify", {}))


def _judge(job: Job, packed: Packed, stages: Stages) -> Judge:
    """Return the judge of the job's tasks, for which the references run."""
    with Scratch("unrounded") as folder:
        whole = None
        if job.recipe.verify.unrounded:
            with stages.stage("calibrate without rounding") as update:
                whole = unrounded(job, packed, folder, update)
        with stages.stage("score the references") as update:
            return Judge.build(job.models, job.tasks, packed, job.device, update, whole)


def _partial(registry: Registry) -> list[str]:
    """Return the formats that do not hold every grid, and so may be calibrated apart."""
    return [name for name, format in registry.formats.items() if format.grids != GRIDS.keys()]


def _packages(registry: Registry) -> list[str]:
    """Return the packages of all formats and runtimes, each once."""
    named = [format.packages for format in registry.formats.values()]
    named += [runtime.packages for runtime in registry.runtimes.values()]
    return list(dict.fromkeys(package for packages in named for package in packages))
