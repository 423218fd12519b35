"""A model's files on the Hugging Face hub."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi

# HTTPError is that of the library by which the hub's is spoken to.
from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from epmq_export import files
from epmq_export.errors import InputError, OutputError, RecipeError, VerificationFailed, first_line
from epmq_export.publishing.report import PAGE, REPORT, Report

CARD, ATTRIBUTES = "README.md", ".gitattributes"
_LARGE = ("*.gguf", "*.onnx", "*.onnx_data", "*.safetensors")


@dataclass(frozen=True)
class Upload:
    """A file that goes to the hub."""

    source: Path | bytes
    """The file here, or its content."""

    place: str
    """The path in the repository."""

    bytes: int
    """Its size."""


def uploads(output: Path, report: Report) -> list[Upload]:
    """Return what of an output goes into a repository, in the order of places.

    The ONNX folder becomes the repository's root, as transformers.js and sentence-transformers look for
    files; GGUF files lie beside it, as llama.cpp does; card, page and report are the output's own. Raises
    VerificationFailed for an output that has not passed, and InputError for one whose files are others than
    those that were verified.
    """
    if report.verdict == "fail":
        fault = report.broken[0] if report.broken else "the report names no fault"
        raise VerificationFailed(f"{output}: its verdict is fail, expected pass: {fault}")
    _require_verified(output, report)
    shown = [name for name in (CARD, PAGE) if (output / name).is_file()]
    found: dict[str, Path | bytes] = {name: output / name for name in shown}
    for name in dict.fromkeys(file.format for file in report.files):
        folder = output / name
        found |= {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    found[ATTRIBUTES] = "".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in _LARGE).encode()
    content = _public(files.read_json(output / REPORT))
    found[REPORT] = json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"
    return [
        Upload(source, place, len(source) if isinstance(source, bytes) else source.stat().st_size)
        for place, source in sorted(found.items())
    ]


def require_name(repository: str) -> None:
    """Raise RecipeError for a name that no repository of the hub can have, before anything is read."""
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise RecipeError(f"REPO: {first_line(error)}") from None


def push(found: Sequence[Upload], repository: str, message: str, private: bool) -> str:
    """Upload files in one commit, into a repository that is made where there is none, and return the commit's
    address. The token is that of `hf auth login` or of HF_TOKEN. Raises OutputError where the hub refuses.
    """
    hub = HfApi()
    operations = [CommitOperationAdd(each.place, each.source) for each in found]
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        return str(hub.create_commit(repository, operations, commit_message=message).commit_url)
    except (HTTPError, OSError, ValueError) as error:
        raise OutputError(
            f"{repository}: the Hugging Face hub does not take it ({first_line(error)})"
        ) from None


def _public(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a report without the places of this machine: paths of files are those in the
    repository.
    """

    def entry(file: Mapping[str, Any]) -> dict[str, Any]:
        root = Path(file["packed"]).parent / file["format"]
        others = [{**each, "path": _within(each["path"], root)} for each in file["others"]]
        packed = Path(file["packed"]).name
        return {**file, "path": _within(file["path"], root), "others": others, "packed": packed}

    recipe = dict(report["recipe"])
    if recipe["file"] is not None:
        recipe["file"] = {"path": Path(recipe["file"]["path"]).name, "sha256": recipe["file"]["sha256"]}
    return {**report, "files": [entry(file) for file in report["files"]], "recipe": recipe}


def _within(path: str, root: Path) -> str:
    return Path(path).relative_to(root).as_posix()


def _require_verified(output: Path, report: Report) -> None:
    """Raise InputError where a file is gone or has other bytes than the report tells of."""
    for file in report.files:
        for each in (file, *file.others):
            path = output / Path(each.path).relative_to(Path(file.packed).parent)
            if not path.is_file():
                raise InputError(f"{path}: it is gone, expected the file that {output / REPORT} tells of")
            if files.sha256(path) != each.sha256:
                raise InputError(
                    f"{path}: it has changed since it was verified, expected SHA-256 "
                    f"{each.sha256[:12]}...: run `epmq verify` with --json first"
                )
