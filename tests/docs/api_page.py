"""docs/api.md, made of the docstrings: `python -m tests.docs.api_page` writes it."""

import ast
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import epmq_export
from tests import ROOT

PAGE = ROOT / "docs" / "api.md"
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
RESULTS = {
    "Verdict": "verification",
    "FileVerdict": "verification",
    "Evaluation": "pipeline",
    "Packed": "tensors",
    "Forecast": "pipeline/forecast",
    "Description": "tensors",
    "Recipe": "recipe",
    "Progress": "pipeline",
    "Pushed": "pipeline",
}
"""The classes that functions return or take, and the folder that each is in."""

PARTS = {
    "HashedFile": "verification",
    "ComparedModel": "verification",
    "Check": "verification",
    "Lines": "verification/statistics",
    "Estimate": "verification/statistics",
    "Interval": "verification/statistics",
    "PackedIndex": "tensors",
    "About": "tensors",
    "Upload": "publishing",
    **dict.fromkeys(
        (
            "Found",
            "FileForecast",
            "Samples",
            "Memory",
            "Work",
            "Time",
            "Speed",
            "RefineForecast",
            "AroundForecast",
            "VerifyForecast",
        ),
        "pipeline/forecast",
    ),
    "TensorDescription": "tensors",
    "Total": "tensors",
}
"""The classes that attributes of results are of."""

KEYS_OF_A_RECIPE = "Its attributes are the keys of [recipe.md](recipe.md); beside them it has:"
INTRODUCTION = """\
# The Python face

```python
import epmq_export as epmq

verdict = epmq.run("recipe.yaml", "out")
print(verdict.passed, verdict.broken)
```

Every function takes paths and plain values and returns a typed result. It prints nothing: `progress` is
called with each step, and what is worth a warning goes to Python's `logging`. An exception that `progress`
raises, such as KeyboardInterrupt, ends the work. Nothing half-written is left, and the call can be made
again or, where it takes `resume`, go on. Errors are those of the command line. The import itself loads
neither torch nor transformers.

The examples assume a `recipe.yaml` with two tasks, `mood` and `topic`, and are run by a test one after the
other. This page is made of the docstrings by `python -m tests.docs.api_page`.
"""


def page() -> str:
    """Return the content of docs/api.md."""
    tree = _tree(ROOT / "epmq_export" / "api.py")
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    errors = [
        node for node in _tree(ROOT / "epmq_export" / "errors.py").body if isinstance(node, ast.ClassDef)
    ]
    lines = [INTRODUCTION, "## Functions", ""]
    for name in FUNCTIONS:
        lines += _function(functions[name])
    lines += ["## Results", ""]
    for name, folder in RESULTS.items():
        lines += _class(name, folder)
    lines += ["## Parts of results", ""]
    for name, folder in PARTS.items():
        lines += _class(name, folder)
    lines += ["## Errors", "", "Each carries the exit code of the command line as `exit_code`.", ""]
    lines += ["| error | is a | exit code | raised for |", "|---|---|---|---|"]
    lines += [_error(node) for node in errors if node.name in epmq_export.__all__]
    return "\n".join(lines) + "\n"


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _function(node: ast.FunctionDef) -> list[str]:
    """Return a function's section: its signature, then the parts of its docstring."""
    arguments = [f"    {text}," for text in _arguments(node.args)]
    signature = [f"epmq.{node.name}(", *arguments, f") -> {_type(node.returns)}"]
    if len(one := f"epmq.{node.name}({', '.join(_arguments(node.args))}) -> {_type(node.returns)}") <= 100:
        signature = [one]
    said, *parts = re.split(r"\n\n(?=\w+:\n)", ast.get_docstring(node) or "")
    lines = [f"### {node.name}", "", "```python", *signature, "```", "", _flowing(said), ""]
    for part in parts:
        title, _, content = part.partition(":\n")
        body = _dedented(content)
        if title == "Example":
            lines += ["```python", body, "```", ""]
        elif title == "Returns" or ": " not in body:
            lines += [f"**{title}** {_flowing(body)}", ""]
        else:
            entries = re.split(r"\n(?=\w+: )", body)
            pairs = [entry.partition(": ") for entry in entries]
            lines += [f"**{title}**", "", *(f"- `{name}`: {_flowing(text)}" for name, _, text in pairs), ""]
    return lines


def _arguments(arguments: ast.arguments) -> Iterator[str]:
    """Give a function's arguments as they are written in its signature, without quotes around types."""
    places = [*arguments.posonlyargs, *arguments.args]
    defaults: Sequence[ast.expr | None] = [None] * (len(places) - len(arguments.defaults))
    for place, default in zip(places, [*defaults, *arguments.defaults], strict=True):
        yield _argument(place, default)
    if arguments.kwonlyargs:
        yield "*"
    for place, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _argument(place, default)


def _argument(place: ast.arg, default: ast.expr | None) -> str:
    return f"{place.arg}: {_type(place.annotation)}" + (f" = {ast.unparse(default)}" if default else "")


def _type(annotation: ast.expr | None) -> str:
    """Return an annotation, without the quotes that keep it from being evaluated."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return annotation.value
    return "None" if annotation is None else ast.unparse(annotation)


def _class(name: str, folder: str) -> list[str]:
    """Return a class's section: what it is, then a table of its public attributes and methods."""
    files = sorted((ROOT / "epmq_export" / folder).rglob("*.py"))
    bodies = [node for file in files for node in _tree(file).body]
    (node,) = (node for node in bodies if isinstance(node, ast.ClassDef) and node.name == name)
    recipe = name == "Recipe"
    rows = [*([] if recipe else _attributes(node)), *_methods(node, calls=not recipe)]
    lines = [f"### {name}", "", _flowing(ast.get_docstring(node) or ""), ""]
    lines += [KEYS_OF_A_RECIPE, ""] if recipe else []
    return [*lines, "| attribute | type | |", "|---|---|---|", *rows, ""]


def _attributes(node: ast.ClassDef) -> Iterator[str]:
    """Give a row for each public attribute that the class's body declares, with the text below it."""
    for place, following in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(place, ast.AnnAssign):
            name, said = ast.unparse(place.target), ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                said = _flowing(ast.literal_eval(following.value))
            yield _row(name, _type(place.annotation), said)


def _methods(node: ast.ClassDef, calls: bool) -> Iterator[str]:
    """Give a row for each public property and, where asked, for each public method."""
    for function in node.body:
        if not isinstance(function, ast.FunctionDef) or function.name.startswith("_"):
            continue
        marks = {ast.unparse(mark) for mark in function.decorator_list}
        said = _flowing((ast.get_docstring(function) or "").partition("\n\n")[0])
        if "property" in marks:
            said = said.removeprefix("Return ")
            yield _row(function.name, _type(function.returns), said[:1].upper() + said[1:])
        elif calls and "classmethod" not in marks:
            own = ast.arguments(
                **{
                    **{field: getattr(function.args, field) for field in ast.arguments._fields},
                    "args": function.args.args[1:],
                }
            )
            yield _row(f"{function.name}({', '.join(_arguments(own))})", _type(function.returns), said)


def _row(name: str, kind: str, said: str) -> str:
    return f"| `{_in_a_table(name)}` | `{_in_a_table(kind)}` | {said} |"


def _in_a_table(code: str) -> str:
    return code.replace("|", "\\|")


def _error(node: ast.ClassDef) -> str:
    (code,) = (
        place.value.value
        for place in node.body
        if isinstance(place, ast.Assign) and isinstance(place.value, ast.Constant)
    )
    above = ", ".join(f"`{ast.unparse(base)}`" for base in node.bases)
    return f"| `{node.name}` | {above} | {code!r} | {_flowing(ast.get_docstring(node) or '')} |"


def _flowing(text: str) -> str:
    """Return a docstring's paragraph on one line, paragraphs apart."""
    return "<br>".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def _dedented(text: str) -> str:
    lines = text.rstrip().splitlines()
    return "\n".join(line.removeprefix("    ") for line in lines)


def write(place: Path = PAGE) -> None:
    place.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write()
