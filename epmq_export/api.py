"""What `import epmq_export` offers: each stage of a job as a function.

Each hands what is installed to the pipeline. Importing this is cheap, since the rooms that need torch are
imported by the functions that use them.
"""

import json
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from epmq_export import files
from epmq_export.errors import OutputError, RecipeError, first_line
from epmq_export.installed import described, registry
from epmq_export.ranks import ALONE, Ranks, here, met

if TYPE_CHECKING:
    import torch

    from epmq_export.pipeline.evaluate import Evaluation
    from epmq_export.pipeline.forecast.record import Forecast
    from epmq_export.pipeline.job import Job
    from epmq_export.pipeline.progress import Listener, Stages
    from epmq_export.pipeline.publish import Pushed
    from epmq_export.recipe.recipe import Recipe
    from epmq_export.tensors.description import Description
    from epmq_export.tensors.packed import Packed
    from epmq_export.verification.verdict import Verdict

# Without a handler Python would print warnings of a program that has not asked for a log.
for _name in ("epmq_export", "converters", "formats"):
    logging.getLogger(_name).addHandler(logging.NullHandler())


def load_recipe(path: str | Path) -> "Recipe":
    """Read and validate a recipe; mergekit's files are recipes too.

    Args:
        path: A YAML file. Relative paths in it are relative to it.

    Returns:
        The recipe. Its models are not opened yet.

    Raises:
        RecipeError: Something in it is wrong; the sentence names file, line and key.

    Example:
        >>> import epmq_export as epmq
        >>> recipe = epmq.load_recipe("recipe.yaml")
        >>> sorted(recipe.tasks)
        ['mood', 'topic']
    """
    from epmq_export.recipe.load import load_recipe

    return load_recipe(Path(path))


def init(
    base: str | Path,
    experts: str | Path | Sequence[str | Path],
    output: str | Path = "recipe.yaml",
    *,
    data: str | Path | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a first recipe, with comments, from what is there, and the schema that editors read beside it.

    Tasks are named as the experts' folders. Data are found by these names: `data/NAME.txt` to calibrate on,
    `data/NAME.test.tsv` to judge by, and the like. What is not found is marked TODO.

    Args:
        base: The model that every expert started from: a directory, a GGUF file, or an id of the hub.
        experts: Whole models or LoRA adapters, one or several: directories, or ids of the hub.
        output: The recipe to write. Paths in it are relative to it.
        data: The folder to look for data in; by default those beside the experts and beside the recipe.
        overwrite: Replace a recipe that is there. A schema that is there stays.

    Returns:
        The recipe.

    Raises:
        RecipeError: `output` exists.
        InputError: A directory is not there, or the base is of no known family.
        OutputError: `output` cannot be written.

    Example:
        >>> import epmq_export as epmq
        >>> recipe = epmq.init("base", ["mood", "topic"], "first.yaml")
        >>> recipe.read_text().splitlines()[0]
        '# yaml-language-server: $schema=recipe.schema.json'
    """
    from epmq_export.pipeline.first_recipe import SCHEMA, first_recipe

    place = Path(output)
    files.refuse_existing(place, overwrite)
    folder = None if data is None else Path(data)
    listed = [experts] if isinstance(experts, str | Path) else experts
    text = first_recipe(registry(), str(base), [str(expert) for expert in listed], folder, place)
    schema = place.parent / SCHEMA
    for path, content in ((schema, f"{json.dumps(recipe_schema(), indent=1)}\n"), (place, text)):
        if path == place or not path.exists():
            with files.whole(path) as built:
                built.write_text(content, encoding="utf-8")
    return place


def recipe_schema() -> dict[str, object]:
    """Return the JSON schema of recipes, by which editors complete keys and find mistakes.

    Args:
        None.

    Returns:
        The schema. `docs/recipe.schema.json` is the same. What it accepts may still be refused: that a file
        exists, or that two keys agree, no schema says.

    Raises:
        Nothing.

    Example:
        >>> import epmq_export as epmq
        >>> epmq.recipe_schema()["properties"]["merge_method"]["default"]
        'tsvm'
    """
    from epmq_export.recipe.recipe import Recipe

    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}


def run(
    recipe: "str | Path | Recipe",
    output: str | Path,
    *,
    device: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: "Listener | None" = None,
) -> "Verdict":
    """Merge, calibrate, write and verify: the whole chain.

    Args:
        recipe: A recipe, or the path of one.
        output: The directory to write. It gets `packed/`, a directory for each format, `report.json`
            and `report.html`.
        device: `cpu`, `cuda` or `cuda:N`; by default CUDA where there is one.
        overwrite: Replace what an earlier run has left.
        resume: Go on from what an interrupted run has finished, to the same bytes.
        progress: Called with each step of each stage.

    Returns:
        The verdict. A file that is not as good as the reference is no exception: look at `passed`.

    Raises:
        RecipeError: The recipe is wrong, or `output` exists.
        InputError: A model or a data file is wrong.
        OutputError: `output` cannot be written, or another process is at work on it.
        MissingRuntime: A runtime that reads one of the files is not installed.

    Example:
        >>> import epmq_export as epmq
        >>> verdict = epmq.run("recipe.yaml", "out")
        >>> verdict.passed
        True
    """
    with _led() as ranks:
        loaded = _loaded(recipe)
        from epmq_export.pipeline.output import reserved
        from epmq_export.pipeline.run import parts, run

        with reserved(Path(output), loaded, overwrite or resume, parts(registry())):
            job = _open(loaded, device, ranks)
            return run(registry(), job, Path(output), overwrite, resume, _stages(progress))


def merge(
    recipe: "str | Path | Recipe",
    output: str | Path,
    *,
    overwrite: bool = False,
    progress: "Listener | None" = None,
) -> Path:
    """Merge the experts in full precision and write a Hugging Face directory.

    Args:
        recipe: A recipe, or the path of one. It needs no tasks.
        output: The directory to write.
        overwrite: Replace an earlier output; a directory of something else is refused.
        progress: Called with each step.

    Returns:
        The directory.

    Raises:
        RecipeError: The recipe is wrong, or `output` exists.
        InputError: A model is wrong, or does not fit the others.
        OutputError: `output` cannot be written, or another process is at work on it.

    Example:
        >>> import epmq_export as epmq
        >>> (epmq.merge("recipe.yaml", "merged") / "config.json").exists()
        True
    """
    loaded = _loaded(recipe)
    from epmq_export.pipeline.merge import MODEL_FILES, write_merge
    from epmq_export.pipeline.output import refuse_foreign, reserved

    with reserved(Path(output), loaded, overwrite):
        files.refuse_existing(Path(output), overwrite)
        refuse_foreign(Path(output), MODEL_FILES)
        write_merge(registry(), loaded, Path(output), _stages(progress))
    return Path(output)


def calibrate(
    recipe: "str | Path | Recipe",
    output: str | Path,
    *,
    format: str | None = None,
    device: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: "Listener | None" = None,
) -> "Packed":
    """Merge and calibrate onto the grids of a format; write a packed checkpoint.

    Args:
        recipe: A recipe, or the path of one.
        output: The directory to write.
        format: Whose grids: `gguf` or `onnx`; `safetensors` for none, a merge in full precision. By default
            the first format that the model's family can be written in.
        device: `cpu`, `cuda` or `cuda:N`; by default CUDA where there is one.
        overwrite: Replace an earlier output; a directory of something else is refused.
        resume: Go on from what an interrupted calibration has finished, to the same bytes.
        progress: Called with each step.

    Returns:
        The packed checkpoint.

    Raises:
        RecipeError: The recipe or the format is wrong, or `output` exists.
        InputError: A model or a data file is wrong.
        CalibrationError: The numbers of a layer cannot be solved.
        OutputError: `output` cannot be written, or another process is at work on it.

    Example:
        >>> import epmq_export as epmq
        >>> packed = epmq.calibrate("recipe.yaml", "packed", format="onnx")
        >>> packed.index.method["name"]
        'anchored'
    """
    with _led() as ranks:
        loaded = _loaded(recipe)
        from epmq_export.pipeline.calibrate import calibrate, calibrated_before
        from epmq_export.pipeline.output import refuse_foreign, reserved
        from epmq_export.pipeline.targets import target_of
        from epmq_export.tensors.directory import PACKED_INDEX

        with reserved(Path(output), loaded, overwrite):
            files.refuse_existing(Path(output), overwrite or resume)
            refuse_foreign(Path(output), [PACKED_INDEX])
            job = _open(loaded, device, ranks)
            target = target_of(job.recipe, job.models.family, registry().formats, format or job.formats[0])
            if resume and not overwrite and files.taken(Path(output)):
                return calibrated_before(job, Path(output), target)
            with _stages(progress).stage("calibrate") as update:
                return calibrate(job, Path(output), target, resume, update)


def take_part(recipe: "str | Path | Recipe", *, device: str | None = None) -> bool:
    """Take part in the calibrations of another process, where torchrun has started several of them.

    The process of rank 0 calls `run` or `calibrate`, all others call this, as `epmq run` and `epmq calibrate`
    do. docs/method.md says what the processes share.

    Args:
        recipe: The recipe that rank 0 calibrates by, or the path of one.
        device: `cpu` or `cuda`, which is the GPU of the process's number on its machine; by default CUDA
            where there is one.

    Returns:
        Whether this process has taken part, and rank 0 is done. False, at once, in a process of rank 0 or one
        that torchrun has not started.

    Raises:
        RecipeError: The recipe is wrong.
        InputError: A model is wrong, or the recipe is another one than rank 0's.
        LostRank: Another process has ended before its work was done.

    Example:
        >>> import epmq_export as epmq
        >>> epmq.take_part("recipe.yaml")
        False
    """
    if here().index == 0:
        return False
    from epmq_export.pipeline.take_part import take_part

    with met() as ranks:
        take_part(_loaded(recipe), registry(), _device(device, ranks), ranks)
    return True


def export(
    packed: "str | Path | Packed",
    output: str | Path,
    *,
    formats: str | Sequence[str] = (),
    overwrite: bool = False,
    progress: "Listener | None" = None,
) -> list[Path]:
    """Write a packed checkpoint in each format.

    Args:
        packed: A packed checkpoint, or its directory.
        output: The directory that gets a directory for each format.
        formats: One or several of `gguf`, `onnx`, and `safetensors`: the values of the codes, in float32, as
            a Hugging Face directory. By default `gguf` and `onnx`, where the family can be written in them.
        overwrite: Replace what is there.
        progress: Called with each step.

    Returns:
        The file of each format that a runtime is given.

    Raises:
        RecipeError: The family cannot be written in a format, or a format's directory exists.
        InputError: `packed` is no packed checkpoint, or not whole.
        OutputError: `output` cannot be written, or another process is at work on it.

    Example:
        >>> import epmq_export as epmq
        >>> epmq.export("packed", "files", formats=["onnx"])[0].name
        'model_q4.onnx'
    """
    from epmq_export.pipeline.export import export
    from epmq_export.tensors.packed import Packed

    opened = packed if isinstance(packed, Packed) else Packed(Path(packed))
    asked = [formats] if isinstance(formats, str) else formats
    return export(registry(), opened, Path(output), asked, overwrite, _stages(progress))


def verify(
    output: str | Path,
    *,
    recipe: "str | Path | Recipe | None" = None,
    against: str | Path | None = None,
    texts: str | Path | None = None,
    report: str | Path | None = None,
    device: str | None = None,
    progress: "Listener | None" = None,
) -> "Verdict":
    """Reload the files that a run left in their runtimes and judge them, or judge any model against another.

    Args:
        output: What `run` left: `packed/` and a directory for each format. With `against`, a model: a `.gguf`
            or `.onnx` file of any origin, a directory of safetensors, or a packed checkpoint.
        recipe: Whose tasks to judge by; by default the recipe that `output/report.json` names. Without one,
            tasks are left out.
        against: The model that `output` is to be as good as: another file or directory of the same model.
        texts: With `against`, a file of texts to compare both on, in place of a recipe's tasks.
        report: Where to write the report as JSON, with its page beside it (`report.html` for `report.json`);
            by default nowhere. A comparison has no page.
        device: Where the reference runs: `cpu`, `cuda` or `cuda:N`; by default CUDA where there is one.
        progress: Called with each step.

    Returns:
        The verdict. A broken file is no exception: look at `passed` and `broken`.

    Raises:
        RecipeError: The recipe is wrong, or `against` stands without texts or recipe.
        InputError: There is nothing to judge, or the packed checkpoint is not whole.
        OutputError: `report` cannot be written.
        MissingRuntime: A runtime that reads one of the files is not installed.

    Example:
        >>> import epmq_export as epmq
        >>> epmq.verify("out").broken
        []
        >>> file = "out/gguf/base-merged-Q4_0.gguf"
        >>> epmq.verify(file, against="out/packed", texts="data/1.txt").passed
        True
    """
    where = Path(report) if report is not None else None
    if where is not None and where.is_dir():
        raise OutputError(f"{where}: found a directory, expected the place of a file")
    if against is None and texts is not None:
        raise RecipeError("--texts: found it without --against, expected both")
    if against is not None and (texts is None) is (recipe is None):
        found = "neither" if texts is None else "both"
        raise RecipeError(f"--against: found {found}, expected --texts or --recipe, to compare on")
    with nullcontext() if where is None else files.locked(where):
        if against is not None:
            return _verify_against(Path(output), Path(against), recipe, texts, where, device, progress)
        return _verify_output(Path(output), recipe, where, device, progress)


def _verify_output(
    output: Path,
    recipe: "str | Path | Recipe | None",
    report: Path | None,
    device: str | None,
    progress: "Listener | None",
) -> "Verdict":
    """Judge what a run left."""
    from epmq_export.pipeline.targets import PACKED
    from epmq_export.pipeline.verify import recipe_of, require_output, verify
    from epmq_export.tensors.packed import Packed

    require_output(output)
    Packed(output / PACKED)  # what is not whole is told before a recipe is opened
    named = recipe if recipe is not None else recipe_of(output)
    job = _open(named, device) if named is not None else None
    return verify(registry(), output, (), job, report, _stages(progress))


def _verify_against(
    model: Path,
    other: Path,
    recipe: "str | Path | Recipe | None",
    texts: str | Path | None,
    report: Path | None,
    device: str | None,
    progress: "Listener | None",
) -> "Verdict":
    """Judge a model against another one, on texts or on the tasks of a recipe."""
    from epmq_export.pipeline.against import compare_on_tasks, compare_on_texts, write_comparison

    stages = _stages(progress)
    if recipe is not None:
        verdict = compare_on_tasks(registry(), model, other, _open(recipe, device), stages)
    else:
        assert texts is not None
        verdict = compare_on_texts(registry(), model, other, Path(texts), _device(device), stages)
    if report is not None:
        write_comparison(verdict, report)
    return verdict


def report(output: str | Path, other: str | Path | None = None) -> Path:
    """Make the page of a run again from its `report.json`, or compare two runs on one page.

    Args:
        output: What `run` left.
        other: What another run left, to compare with: both verdicts side by side, and the differences by task
            with their intervals.

    Returns:
        `output/report.html`, or with another run `output/comparison.html`: one HTML file that needs nothing
        else. What is there is replaced.

    Raises:
        InputError: A `report.json` is absent, of another version's format, or not whole.
        OutputError: The page cannot be written.

    Example:
        >>> import epmq_export as epmq
        >>> epmq.report("out").name
        'report.html'
    """
    from epmq_export.publishing.report import COMPARISON, PAGE, REPORT

    if other is None:
        from epmq_export.publishing.page import write_page

        write_page(Path(output) / REPORT, page := Path(output) / PAGE)
        return page
    from epmq_export.pipeline.compare import compare
    from epmq_export.publishing.page import write_comparison

    page = Path(output) / COMPARISON
    write_comparison(Path(output) / REPORT, Path(other) / REPORT, page, compare)
    return page


def evaluate(
    model: str | Path,
    recipe: "str | Path | Recipe",
    *,
    device: str | None = None,
    progress: "Listener | None" = None,
) -> "Evaluation":
    """Score a model on a recipe's tasks, beside the base and the experts.

    Args:
        model: A model directory, a `.gguf` or `.onnx` file, or a packed checkpoint.
        recipe: Whose tasks, base and experts.
        device: `cpu`, `cuda` or `cuda:N`; by default CUDA where there is one.
        progress: Called with each step.

    Returns:
        The scores by task of the base, of each task's expert, and of the model.

    Raises:
        RecipeError: The recipe is wrong.
        InputError: The model is none, or does not fit the base.

    Example:
        >>> import epmq_export as epmq
        >>> scores = epmq.evaluate("out/gguf/base-merged-Q4_0.gguf", "recipe.yaml")
        >>> sorted(scores.model)
        ['average', 'mood', 'topic']
    """
    from epmq_export.pipeline.evaluate import evaluate

    return evaluate(registry(), Path(model), _open(recipe, device), _stages(progress))


def forecast(
    recipe: "str | Path | Recipe",
    output: str | Path | None = None,
    *,
    device: str | None = None,
    overwrite: bool = False,
) -> "Forecast":
    """Say what a run will write, hold in memory and take. Downloads nothing and calibrates nothing.

    Args:
        recipe: A recipe, or the path of one.
        output: Where the run would write; it is looked at, and nothing is written.
        device: Whose speed to measure: `cpu`, `cuda` or `cuda:N`; by default CUDA where there is one.
        overwrite: Whether the run would replace what is at `output`.

    Returns:
        What of the recipe is here, grids, sizes of files, memory, time, and what cannot be said.

    Raises:
        RecipeError: The recipe contradicts itself or a model that is here, or `output` exists.
        InputError: A file that is here is broken.

    Example:
        >>> import epmq_export as epmq
        >>> [file.path for file in epmq.forecast("recipe.yaml").files if file.format == "gguf"]
        ['base-merged-Q4_0.gguf']
    """
    from epmq_export.pipeline.forecast.forecast import Forecaster

    if output is not None:
        files.refuse_existing(Path(output), overwrite)
    return Forecaster(registry(), _device(device)).forecast(_loaded(recipe).require_tasks())


def inspect(path: str | Path) -> "Description":
    """List the metadata and tensors of a model file or directory. Reads no weights and needs no torch.

    Args:
        path: A `.gguf`, `.onnx` or `.safetensors` file, a packed checkpoint, a model directory or an adapter.

    Returns:
        Its kind, origin, metadata and tensors, with types and sizes.

    Raises:
        InputError: There is nothing at `path`, nothing that is a model, or a model that is not whole.

    Example:
        >>> import epmq_export as epmq
        >>> epmq.inspect("out/gguf/base-merged-Q4_0.gguf").kind
        'gguf'
    """
    return described(Path(path))


def push(output: str | Path, repository: str, *, private: bool = False, dry_run: bool = False) -> "Pushed":
    """Upload what a run left to a repository of the Hugging Face hub, in one commit.

    The ONNX folder becomes the repository's root and GGUF files lie beside it, so that llama.cpp,
    transformers.js and sentence-transformers find what they look for.

    Args:
        output: What `run` left.
        repository: `USER/NAME`; it is made where there is none.
        private: Make it a private one.
        dry_run: Upload nothing and say only which files would go.

    Returns:
        The files by their places in the repository, and the address of the commit.

    Raises:
        RecipeError: No repository can have that name.
        VerificationFailed: The verdict on the files is one of failure.
        InputError: No run has finished there, or a file has changed since.
        OutputError: The hub cannot be reached, or refuses.

    Example:
        >>> import epmq_export as epmq
        >>> pushed = epmq.push("out", "me/model", dry_run=True)
        >>> [file.place for file in pushed.files if file.place.endswith(".gguf")]
        ['base-merged-Q4_0.gguf']
    """
    from epmq_export.pipeline.publish import publish

    return publish(Path(output), repository, private, dry_run)


def _loaded(recipe: "str | Path | Recipe") -> "Recipe":
    from epmq_export.recipe.recipe import Recipe

    return recipe if isinstance(recipe, Recipe) else load_recipe(recipe)


def _led() -> AbstractContextManager[Ranks]:
    """Return the meeting of all ranks, whose first one this process is. RecipeError where it is not."""
    if (index := here().index) > 0:
        raise RecipeError(f"rank {index} of torchrun: found a call of run or calibrate, expected take_part")
    return met()


def _open(recipe: "str | Path | Recipe", device: str | None, ranks: Ranks = ALONE) -> "Job":
    from epmq_export.pipeline.job import Job

    return Job.open(_loaded(recipe), registry(), _device(device, ranks), ranks)


def _stages(progress: "Listener | None") -> "Stages":
    from epmq_export.pipeline.progress import Stages, ignore

    return Stages(progress or ignore)


def _device(name: str | None, ranks: Ranks = ALONE) -> "torch.device":
    """Return a device by its name; RecipeError where there is none of that name. Of several ranks each has
    the GPU of its own number.
    """
    import torch

    from epmq_export.models.reference import default_device

    if name is None:
        name = default_device().type
    if ranks.count > 1 and name.startswith("cuda"):
        name = f"cuda:{ranks.local}"
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise RecipeError(f"--device {name}: expected cpu, cuda or cuda:N")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"--device {name}: {first_line(error)}") from None
    return device
