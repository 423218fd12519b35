"""The command line: parse arguments, call `epmq_export`, print what comes back. It does nothing else."""

import sys
from contextlib import nullcontext
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import epmq_export as epmq
from epmq_export import ranks
from epmq_export import threads as processors
from epmq_export.console.progress import ProgressDisplay
from epmq_export.console.signals import Interruption
from epmq_export.console.streams import ReaderGone, hushed, prepare
from epmq_export.console.terminal import encodes_signs, print_json, print_result, show_line, show_log
from epmq_export.errors import EpmqError, MissingRuntime, RecipeError, VerificationFailed

if TYPE_CHECKING:
    from epmq_export import Verdict

app = typer.Typer(
    name="epmq",
    help="Merge fine-tuned experts, calibrate the merge to 4 bits with the experts as targets, write GGUF "
    "and ONNX, and prove the files good in real runtimes.",
    epilog="Exit codes: 0 good; 1 the artefact fails verification; 2 wrong use or recipe; 3 a bad input "
    "file, "
    "or an output that cannot be written; 4 a runtime is not installed; 5 another process of torchrun's has "
    "ended; 130 interrupted (143 and 129 by SIGTERM and SIGHUP); 141 the reader of a pipe is gone.",
    no_args_is_help=True,
    rich_markup_mode="rich" if encodes_signs() else None,
    pretty_exceptions_enable=False,
)

READER_GONE = 141  # what a shell says of a program that SIGPIPE ends


class FormatName(StrEnum):
    """The formats that `epmq export` writes."""

    gguf = "gguf"
    onnx = "onnx"
    safetensors = "safetensors"


class CalibratedFor(StrEnum):
    """What `epmq calibrate` rounds to: the grids of a format, or none."""

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
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        help="How many threads compute; default: OMP_NUM_THREADS, or the cores that this process may use.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


SHARED = ("calibrate", "run", "demo")
"""The commands that several processes of torchrun's do together. The others are rank 0's alone."""


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    show_log(verbose)
    processors.take(None)
    if version:
        print_result(epmq.__version__)
        raise typer.Exit
    if ranks.here().index > 0 and context.invoked_subcommand not in SHARED:
        raise typer.Exit


@app.command()
def merge(recipe: RecipeFile, output: Output, threads: Threads = None, overwrite: Overwrite = False) -> None:
    """Merge the experts; write a Hugging Face directory in full precision."""
    processors.take(threads)
    print_result(epmq.merge(recipe, output, overwrite=overwrite, progress=ProgressDisplay()))


@app.command()
def calibrate(
    recipe: RecipeFile,
    output: Output,
    format: Annotated[
        CalibratedFor | None,
        typer.Option(
            "--format",
            help="The format whose grids the weights are rounded to. Of onnx these are fewer: a recipe says "
            "what stands in for the others (quantization.onnx_grid). safetensors rounds nothing. Default: "
            "the first format that the model can be written in.",
        ),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Merge and calibrate, layer by layer, onto the grids of the file; write a packed checkpoint."""
    processors.take(threads)
    if epmq.take_part(recipe, device=device):
        return
    packed = epmq.calibrate(
        recipe,
        output,
        format=None if format is None else format.value,
        device=device,
        overwrite=overwrite,
        resume=resume,
        progress=ProgressDisplay(),
    )
    print_result(packed.directory)


@app.command()
def export(
    packed: Annotated[Path, typer.Argument(metavar="PACKED", help="A packed checkpoint.")],
    output: Output,
    format: Annotated[
        list[FormatName] | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="gguf, onnx or safetensors, each with a --format of its own. safetensors is a Hugging Face "
            "directory with the values of the codes in float32. Default: gguf and onnx, where the model can "
            "be written in them.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a packed checkpoint as OUTPUT/gguf and OUTPUT/onnx, or as OUTPUT/safetensors."""
    formats = [name.value for name in format or ()]
    for path in epmq.export(packed, output, formats=formats, overwrite=overwrite, progress=ProgressDisplay()):
        print_result(path)


@app.command()
def verify(
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="What `epmq run` left: packed, gguf, onnx. With --against: a .gguf, an .onnx, a directory "
            "of safetensors.",
        ),
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            help="Whose tasks to judge by; default: the recipe that OUT/report.json names.",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="OTHER",
            help="Judge the model OUT by another file or directory of the same model, whatever wrote them; "
            "with --texts or --recipe.",
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option("--texts", help="The texts to compare on: a line each, .tsv, .csv, .jsonl, .parquet."),
    ] = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Write the report to a file, and its page beside it; a comparison has none."
        ),
    ] = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Reload the written files in their runtimes and judge them: codes, metadata, graph, accuracy by task."""
    processors.take(threads)
    verdict = epmq.verify(
        output,
        recipe=recipe,
        against=against,
        texts=texts,
        report=json_file,
        device=device,
        progress=ProgressDisplay(),
    )
    _show(verdict, output)


@app.command()
def report(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="What `epmq run` left.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER", help="What another run left, to compare with.")
    ] = None,
) -> None:
    """Make OUT/report.html again from OUT/report.json, or compare two runs in OUT/comparison.html."""
    print_result(epmq.report(output, other))


@app.command()
def evaluate(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="A model directory, a .gguf, an .onnx, or a packed checkpoint."),
    ],
    recipe: Annotated[Path, typer.Option("--recipe", help="Whose tasks to score.")],
    device: Device = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Score a model on a recipe's tasks, beside the base and the experts."""
    from epmq_export.console.verdict import show_scores

    processors.take(threads)
    found = epmq.evaluate(model, recipe, device=device, progress=ProgressDisplay())
    if as_json:
        print_json(found.as_dict())
    else:
        scores = {"base": found.base, "experts": found.experts, "model": found.model}
        show_scores(scores, found.intervals)


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
    from epmq_export.console.description import show_description

    description = epmq.inspect(file)
    if as_json:
        print_json(description.as_dict())
    else:
        show_description(description)


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
    threads: Threads = None,
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
    processors.take(threads)
    if as_json and not dry_run:
        raise RecipeError(
            "--json: found it without --dry-run, expected both: a run writes OUTPUT/report.json"
        )
    if dry_run:
        if ranks.here().index == 0:
            _forecast(recipe, output, device, overwrite or resume, as_json)
        return
    if output is None:
        raise RecipeError("--output: found nothing, expected the directory to write")
    if epmq.take_part(recipe, device=device):
        return
    verdict = epmq.run(
        recipe, output, device=device, overwrite=overwrite, resume=resume, progress=ProgressDisplay()
    )
    _show(verdict, output, output / "report.html")


@app.command()
def demo(
    output: Output = Path("demo-out"),
    threads: Threads = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """The whole chain on all-MiniLM-L6-v2 and six LoRA experts, in two to three minutes on two cores."""
    from epmq_export.doctor import DEMO_INSTALL, DEMO_MODULE

    processors.take(threads)
    package = find_spec(DEMO_MODULE)
    if package is None or package.origin is None:
        raise MissingRuntime(f"the demo's base model is not installed: {DEMO_INSTALL} (91 MB)")
    recipe = epmq.load_recipe(Path(epmq.__file__).parent / "demo" / "recipe.yaml")
    recipe = recipe.with_base(Path(package.origin).parent / "model")
    if epmq.take_part(recipe):
        return
    verdict = epmq.run(recipe, output, overwrite=overwrite, resume=resume, progress=ProgressDisplay())
    _show(verdict, output, output / "report.html")


@app.command()
def init(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="What the experts started from: a directory or a hub id.")
    ],
    experts: Annotated[
        list[str],
        typer.Argument(metavar="EXPERT", help="Models or LoRA adapters, as directories or hub ids."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The recipe to write; refused if it exists.")
    ] = Path("recipe.yaml"),
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Where data are: NAME.train.txt, NAME.test.tsv, NAME/, for an expert in the folder NAME. "
            "Default: beside the experts and the recipe.",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a first recipe, with comments, from the models and data that are there."""
    print_result(epmq.init(base, experts, output, data=data, overwrite=overwrite))


@app.command(no_args_is_help=True)
def recipe(
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes, for editors.")],
) -> None:
    """Tell what a recipe may have."""
    if schema:
        print_json(epmq.recipe_schema())


@app.command()
def push(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="What `epmq run` left.")],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="USER/NAME on the Hugging Face hub.")],
    upload: Annotated[
        bool, typer.Option("--upload", help="Upload; without it, what would go is listed, and nothing goes.")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="Make the repository a private one.")] = False,
) -> None:
    """List what of a verified output would go to a repository of the hub; with --upload, send it."""
    from epmq_export.console.uploads import show_uploads

    show_uploads(epmq.push(output, repository, private=private, dry_run=not upload))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, what is missing and what that costs."""
    from epmq_export.console.diagnosis import show_diagnosis
    from epmq_export.doctor import diagnose

    diagnosis = diagnose()
    if as_json:
        print_json(diagnosis.as_dict())
    else:
        show_diagnosis(diagnosis)
    if diagnosis.lacking:
        names = ", ".join(part.name for part in diagnosis.lacking)
        raise MissingRuntime(f"the main job cannot run without {names}")


def _forecast(recipe: Path, output: Path | None, device: str | None, replaced: bool, as_json: bool) -> None:
    """Show what a run would do. `replaced` says that an existing output would not stop it."""
    from epmq_export.console.forecast import show_forecast

    forecast = epmq.forecast(recipe, output, device=device, overwrite=replaced)
    if as_json:
        print_json(forecast.as_dict())
    else:
        show_forecast(forecast)


def _show(verdict: "Verdict", output: Path, page: Path | None = None) -> None:
    """Show a verdict, and where its page is; VerificationFailed where it is one of failure."""
    from epmq_export.console.verdict import show_verdict

    show_verdict(verdict)
    if page is not None:
        show_line(f"to look at in a browser: {page}", "dim")
    if verdict.broken:
        more = f" (and {len(verdict.broken) - 1} more)" if verdict.broken[1:] else ""
        raise VerificationFailed(f"{output}: verification failed: {verdict.broken[0]}{more}")


def main() -> None:
    """Run the command line; every error is one sentence and an exit code."""
    prepare()
    interruption = Interruption()
    try:
        with hushed() if ranks.here().index > 0 else nullcontext():
            app()
    except BaseException as error:
        interruption.end()
        finished = isinstance(error, SystemExit) and not error.code
        # Whatever the error: libraries make others of an interrupt that reaches their native code.
        if interruption.heard and not finished:
            _fail(interruption.sentence, interruption.code)
        if isinstance(error, ReaderGone):
            sys.exit(READER_GONE)
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


def _fail(sentence: str, code: int) -> None:
    """End with a sentence, which one of several ranks tells for all."""
    told = ranks.told_by_another(code)
    if told is None:
        index = ranks.here().index
        show_line(f"error: {f'rank {index}: ' if index else ''}{sentence}", "red")
    sys.exit(code if told is None else told)


if __name__ == "__main__":
    main()
