"""The stages of a run in a row: calibrate, write, reload and judge. Each leaves what the next reads, so that
each can run alone.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from epmq_export import files
from epmq_export.console import Stages
from epmq_export.errors import InputError, RecipeError
from epmq_export.models import reference
from epmq_export.models.family import Family
from epmq_export.models.format import Format
from epmq_export.models.runtime import Runtime
from epmq_export.models.samples import Sample
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.requirements import require_readable
from epmq_export.recipe.recipe import RecipeVerify
from epmq_export.tensors.checkpoint import OpenGguf, open_checkpoint
from epmq_export.tensors.compatible import require_fit, require_same_vocabulary
from epmq_export.tensors.directory import PACKED_INDEX
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.source import renamed
from epmq_export.verification.report import Report
from epmq_export.verification.tasks.bench import Outputs
from epmq_export.verification.verify import Verdict, Written
from epmq_export.verification.verify import verify as verify_files

log = logging.getLogger(__name__)
PACKED, REPORT = "packed", "report.json"
# Beside it, where ONNX cannot hold what GGUF gets.
PACKED_ONNX = "packed-onnx"


@dataclass(frozen=True)
class Pipeline:
    open_family: Callable[[Path], Family]
    open_gguf: OpenGguf
    formats: Mapping[str, Format]
    runtimes: Mapping[str, Runtime]

    def reader(self, family: Family, name: str) -> Runtime:
        """What reads a family's files of a format."""
        return self.runtimes[family.runtimes[name]]

    def run(self, project: Job, output: Path, overwrite: bool, resume: bool, stages: Stages) -> Verdict:
        """All of it. RecipeError where something is there that is not to be replaced."""
        names = project.formats
        for name in names:
            self.reader(
                project.sources.family, name
            ).version()  # a missing runtime is told before the work, not after it
        if "gguf" in names:
            require_readable(project.recipe, project.sources.family)
        if files.taken(output) and not (overwrite or resume):
            raise RecipeError(
                f"{output} exists: give another place, --overwrite, or --resume to go on from an "
                "interrupted run"
            )
        files.make_directory(output)
        if overwrite and not resume:
            for name in (PACKED, PACKED_ONNX, REPORT, *self.formats):
                files.remove(output / name)
        apart = project.recipe.quantization.onnx_apart and len(names) > 1
        for place, own in ((PACKED, ["gguf"]), (PACKED_ONNX, ["onnx"])) if apart else ((PACKED, names),):
            finished = resume and (output / place).exists()
            packed = (
                project.calibrated(output / place)
                if finished
                else calibrate(project, output / place, resume, stages, own[0])
            )
            self.export(packed, output, own, overwrite=True, stages=stages)
        return self.verify(output, names, project, stages, output / REPORT)

    def export(
        self, packed: Packed, output: Path, names: Sequence[str], overwrite: bool, stages: Stages
    ) -> list[Path]:
        """Write the formats, all that the family can be written in where none are named; the files that tasks
        are judged by.
        """
        family = self.open_family(packed.directory)
        names = names or [*family.runtimes]
        if lacking := [name for name in names if name not in family.runtimes]:
            raise RecipeError(
                f"--format {lacking[0]}: family {family.name} cannot be written in it, expected "
                f"{' or '.join(family.runtimes)}"
            )
        for name in names:
            files.refuse_existing(output / name, overwrite)
        written = []
        for name in names:
            with stages.stage(f"write {name}"), files.whole(output / name) as built:
                built.mkdir()
                model = self.formats[name].write(packed, family, built).relative_to(built)
            written.append(output / name / model)
        return written

    def verify(
        self, output: Path, names: Sequence[str], project: Job | None, stages: Stages, report: Path | None
    ) -> Verdict:
        """Each file against the packed checkpoint that it was written from; the tasks of all against that of
        GGUF, where the two differ.

        Without names, every format that is there.
        """
        packed = Packed(output / PACKED)
        family = self.open_family(packed.directory)
        apart = Packed(output / PACKED_ONNX) if (output / PACKED_ONNX).exists() else None
        names = names or self._there(output, family, packed)
        written = []
        for name in names:
            format, own = self.formats[name], apart if apart is not None and name == "onnx" else packed
            written.append(Written(format.find(output / name), format, self.reader(family, name), own))
        judge = None
        if project is not None:
            with stages.stage("score the references") as update:
                judge = project.judge(packed, lambda text: update(text, 0, 0))
        tolerances = (
            RecipeVerify.model_validate(packed.index.get("recipe", {}).get("verify", {}))
            if project is None
            else project.recipe.verify
        )
        with stages.stage("verify") as update:
            verdict = verify_files(written, family, tolerances, judge, lambda text: update(text, 0, 0))
        if report is not None:
            Report(
                packed,
                apart if "onnx" in names else None,
                verdict,
                project.recipe.path if project is not None else None,
                stages.seconds,
            ).write(report)
        return verdict

    def _there(self, output: Path, family: Family, packed: Packed) -> list[str]:
        names = [name for name in family.runtimes if (output / name).is_dir()]
        if not names:
            raise InputError(
                f"{output}: found none of {', '.join(family.runtimes)}, expected the directories that "
                "`epmq export` writes"
            )
        asked = packed.index.get("recipe", {}).get("export", {}).get("formats") or [*family.runtimes]
        if missing := [name for name in asked if name not in names]:
            log.warning(
                "%s: found no %s, which the recipe asks for: not checked", output, " and no ".join(missing)
            )
        return names

    def runner(self, model: Path, project: Job) -> Callable[[Sequence[Sample]], Outputs]:
        """What gives a model's outputs for samples: a file's runtime, or PyTorch."""
        if not model.exists():
            raise InputError(f"{model}: no such file or directory")
        family, base = project.sources.family, project.checkpoints.base
        for name in family.runtimes:
            if model.suffix == f".{name}" and model.is_file():
                return partial(self.reader(family, name).outputs, model)
            if model.is_dir() and (model / name).is_dir() and not (model / PACKED_INDEX).exists():
                return partial(self.reader(family, name).outputs, self.formats[name].find(model))
        if (model / PACKED_INDEX).exists():
            return partial(reference.outputs, self.open_family(model), Packed(model), device=project.device)
        opened = open_checkpoint(model, base, open_gguf=self.open_gguf)
        require_same_vocabulary(base.directory, opened.directory, str(model))
        source = project.sources.like_expert(renamed(opened, family.canonical))
        require_fit(project.sources.base, source, str(model))
        return partial(reference.outputs, family, source, device=project.device)


def calibrate(project: Job, directory: Path, resume: bool, stages: Stages, format: str) -> Packed:
    if format == "gguf":
        require_readable(project.recipe, project.sources.family)
    with stages.stage("calibrate" if directory.name != PACKED_ONNX else "calibrate for onnx") as update:
        return project.calibrate(directory, resume, update, format)


def recipe_of(output: Path) -> Path | None:
    """The recipe that a run's report names, if it is still there; else a warning."""
    report = output / REPORT
    try:
        named = Path(json.loads(report.read_text(encoding="utf-8"))["recipe"]["file"]["path"])
    except (OSError, ValueError, KeyError, TypeError):
        log.warning("%s names no recipe, so the tasks are not checked: give --recipe", report)
        return None
    if not named.is_file():
        log.warning("the recipe %s is gone, so the tasks are not checked: give --recipe", named)
        return None
    return named
