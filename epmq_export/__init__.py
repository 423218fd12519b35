"""Merge fine-tuned experts, calibrate the merge to 4 bits with the experts as targets, and judge what real
runtimes reload.

    import epmq_export as epmq

    verdict = epmq.run("recipe.yaml", "out")
    verdict.passed

Everything below is loaded when it is first asked for: the import itself takes no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from epmq_export._version import __version__

if TYPE_CHECKING:
    from epmq_export.api import (
        calibrate,
        evaluate,
        export,
        forecast,
        init,
        inspect,
        load_recipe,
        merge,
        push,
        recipe_schema,
        report,
        run,
        take_part,
        verify,
    )
    from epmq_export.errors import (
        CalibrationError,
        EpmqError,
        InputError,
        LostRank,
        MissingRuntime,
        OutputError,
        RecipeError,
        VerificationFailed,
    )
    from epmq_export.pipeline.evaluate import Evaluation
    from epmq_export.pipeline.forecast.record import Forecast
    from epmq_export.pipeline.progress import Progress
    from epmq_export.pipeline.publish import Pushed
    from epmq_export.recipe.recipe import Recipe
    from epmq_export.tensors.description import Description
    from epmq_export.tensors.packed import Packed
    from epmq_export.verification.verdict import FileVerdict, Verdict

__all__ = [
    "CalibrationError",
    "Description",
    "EpmqError",
    "Evaluation",
    "FileVerdict",
    "Forecast",
    "InputError",
    "LostRank",
    "MissingRuntime",
    "OutputError",
    "Packed",
    "Progress",
    "Pushed",
    "Recipe",
    "RecipeError",
    "Verdict",
    "VerificationFailed",
    "__version__",
    "calibrate",
    "evaluate",
    "export",
    "forecast",
    "init",
    "inspect",
    "load_recipe",
    "merge",
    "push",
    "recipe_schema",
    "report",
    "run",
    "take_part",
    "verify",
]

_MODULES = {
    "Description": "tensors.description",
    "Evaluation": "pipeline.evaluate",
    "FileVerdict": "verification.verdict",
    "Forecast": "pipeline.forecast.record",
    "Packed": "tensors.packed",
    "Progress": "pipeline.progress",
    "Pushed": "pipeline.publish",
    "Recipe": "recipe.recipe",
    "Verdict": "verification.verdict",
}


def __getattr__(name: str) -> object:
    """Load a public name from its module (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES.get(name, "api" if name.islower() else "errors")
    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
