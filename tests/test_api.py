"""The Python face: what `import epmq_export` offers, and how it behaves in somebody else's program."""

import doctest
import logging
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import epmq_export
from epmq_export import Progress, api
from tests import ROOT
from tests.tiny import recipe_project
from tests.tiny.built_once import built_once

FUNCTIONS = (
    "init",
    "load_recipe",
    "recipe_schema",
    "run",
    "merge",
    "calibrate",
    "take_part",
    "export",
    "verify",
    "report",
    "evaluate",
    "push",
    "forecast",
    "inspect",
)
RESULTS = (
    "Description",
    "Evaluation",
    "FileVerdict",
    "Forecast",
    "Packed",
    "Progress",
    "Pushed",
    "Recipe",
    "Verdict",
)
ERRORS = (
    "CalibrationError",
    "EpmqError",
    "InputError",
    "LostRank",
    "MissingRuntime",
    "OutputError",
    "RecipeError",
    "VerificationFailed",
)
HEAVY = ("torch", "matplotlib", "transformers", "numpy", "rich", "typer", "pydantic", "yaml", "onnx", "gguf")


def test_the_public_names_are_these() -> None:
    assert sorted(epmq_export.__all__) == sorted([*FUNCTIONS, *RESULTS, *ERRORS, "__version__"])
    assert dir(epmq_export) == sorted(epmq_export.__all__)
    for name in epmq_export.__all__:
        assert getattr(epmq_export, name) is not None, name


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'epmq_export' has no attribute 'quantise'"):
        epmq_export.quantise  # noqa: B018


def test_every_function_says_what_it_takes_gives_and_raises() -> None:
    for name in FUNCTIONS:
        said = getattr(epmq_export, name).__doc__
        assert all(f"\n    {part}:\n" in said for part in ("Args", "Returns", "Raises", "Example")), name


def test_the_import_is_light() -> None:
    """Whoever imports the package waits for nothing that no function has needed yet."""
    program = f"import epmq_export, sys; print(sorted(set(sys.modules) & set({HEAVY})))"
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout == "[]\n"


def _inputs(folder: Path) -> None:
    """Write `recipe.yaml` and what it names, as the examples have it: a small base, a whole expert and an
    adapter.
    """
    base = recipe_project.base(folder / "base", width=64, layers=1)
    recipe_project.full_expert(folder / "mood", base, 1)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )  # PEFT's
        recipe_project.lora_expert(folder / "topic", base, 2)
    recipe_project.data(folder / "data")
    tasks = {
        name: {
            "expert": f"./{name}",
            "calibration": f"data/{task}.txt",
            "evaluation": f"data/{task}.tsv",
            "labels": {f"c{label}": text for label, text in enumerate(recipe_project.label_texts(task))},
        }
        for task, name in enumerate(("mood", "topic"), start=1)
    }
    recipe = {"base_model": "./base", "tasks": tasks, "calibration": {"samples": 16}}
    recipe["export"] = {"formats": ["gguf"]}  # the quicker one; an example writes ONNX
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


@pytest.fixture(autouse=True)
def _there(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put each test into a folder of its own with the recipe."""
    folder = tmp_path_factory.mktemp("face") / "project"
    shutil.copytree(built_once("face", _inputs), folder)
    monkeypatch.chdir(folder)
    # pytest listens to the log; a program that does not must hear nothing of it either.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])


@pytest.fixture
def out(_there: None) -> Path:
    """The output of a run of the recipe."""

    def run(folder: Path) -> None:
        epmq_export.run("recipe.yaml", folder / "out")

    shutil.copytree(built_once("face-ran", run) / "out", "out")
    return Path("out").absolute()


def _bytes(place: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder but of report and page, which have times and paths."""
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in sorted(place.rglob("*"))
        if path.is_file() and path.name not in ("report.json", "report.html")
    }


def test_the_examples_of_all_functions_run_and_print_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """One after the other, as a reader would try them: later ones use what earlier ones wrote."""
    said: list[str] = []
    for name in FUNCTIONS:
        (example,) = doctest.DocTestFinder(recurse=False).find(getattr(api, name), name, globs={})
        assert example.examples, name
        result = doctest.DocTestRunner().run(example, out=said.append)
        assert result.failed == 0, "".join(said)
    assert capfd.readouterr() == ("", "")
    assert {"out", "merged", "packed", "files"} <= {path.name for path in Path().iterdir()}


def test_a_second_run_in_one_process_gives_the_same_bytes(out: Path) -> None:
    epmq_export.run("recipe.yaml", "again")
    first = _bytes(out)
    assert {"packed/packed.json", "gguf/base-merged-Q4_0.gguf"} <= first.keys()
    assert _bytes(Path("again")) == first


def test_a_listener_is_told_of_every_stage() -> None:
    told: list[Progress] = []
    assert epmq_export.run("recipe.yaml", "told", progress=told.append).passed
    stages: dict[str, list[Progress]] = {}
    for progress in told:
        stages.setdefault(progress.stage, []).append(progress)
    assert list(stages) == ["calibrate", "write gguf", "score the references", "verify"]
    for steps in stages.values():
        assert [step.state for step in steps] == ["running"] * (len(steps) - 1) + ["finished"]
        assert (steps[0].text, steps[-1].text) == ("", "")
        assert all(step.text and step.done <= step.total for step in steps[1:-1])
        assert [step.seconds for step in steps] == sorted(step.seconds for step in steps)


Listener = Callable[[Progress], None]


def _run(output: Path, listen: Listener) -> object:
    return epmq_export.run("recipe.yaml", output, resume=True, progress=listen)


def _merge(output: Path, listen: Listener) -> object:
    return epmq_export.merge("recipe.yaml", output, progress=listen)


def _calibrate(output: Path, listen: Listener) -> object:
    return epmq_export.calibrate("recipe.yaml", output, progress=listen)


def _export(output: Path, listen: Listener) -> object:
    return epmq_export.export("out/packed", output, formats=["gguf"], progress=listen)


@pytest.mark.parametrize(
    ("call", "step", "same"),
    [(_run, 6, "out"), (_merge, 1, ""), (_calibrate, 6, "out/packed"), (_export, 1, "")],
)
@pytest.mark.usefixtures("out")
def test_a_listener_can_interrupt_and_the_same_call_can_be_made_again(
    call: Callable[[Path, Listener], object], step: int, same: str, tmp_path: Path
) -> None:
    told: list[Progress] = []

    def interrupt(progress: Progress) -> None:
        told.append(progress)
        if len(told) == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(tmp_path / "made", interrupt)
    assert (told[-1].stage, told[-1].state) == (told[0].stage, "failed")
    # What a calibration has finished waits in a hidden folder; nothing else is there yet.
    assert all(".packed.blocks" in str(path) or ".made.blocks" in str(path) for path in _files(tmp_path))
    call(tmp_path / "made", told.append)
    assert _files(tmp_path / "made") and not any(path.name.startswith(".") for path in tmp_path.rglob("*"))
    assert not same or _bytes(tmp_path / "made") == _bytes(Path(same))


def _files(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.is_file()]


def test_the_errors_are_those_that_the_command_line_tells(out: Path, tmp_path: Path) -> None:
    with pytest.raises(epmq_export.RecipeError, match=r"out exists: give another place"):
        epmq_export.run("recipe.yaml", out)
    with pytest.raises(epmq_export.RecipeError, match=r"^--format gguff: "):
        epmq_export.calibrate("recipe.yaml", tmp_path / "packed", format="gguff")
    with pytest.raises(epmq_export.RecipeError, match=r"^--format gguff: "):
        epmq_export.export(out / "packed", tmp_path / "files", formats="gguff")
    with pytest.raises(epmq_export.InputError, match=r"^nothing: "):
        epmq_export.evaluate("nothing", "recipe.yaml")
    with pytest.raises(epmq_export.InputError, match=r"found no packed in it"):
        epmq_export.verify(tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_one_expert_need_not_be_a_list(tmp_path: Path) -> None:
    assert "  mood:\n" in epmq_export.init("base", "mood", tmp_path / "first.yaml").read_text()


def test_a_model_is_judged_by_another_on_the_tasks_of_a_recipe(out: Path) -> None:
    (file,) = (out / "gguf").iterdir()
    verdict = epmq_export.verify(file, against=out / "packed", recipe="recipe.yaml")
    assert verdict.passed and verdict.against is not None and verdict.against.runtime == "torch"
    assert set(verdict.scores) == {"reference", "gguf in llama.cpp"}
    assert set(verdict.files[0].checks["tasks"].facts["by_task"]) == {"mood", "topic"}
