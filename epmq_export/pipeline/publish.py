"""What a finished output shows to others: its model card, and its files on the hub."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epmq_export import files
from epmq_export.models.classifiers import CLASSES
from epmq_export.pipeline.targets import PACKED
from epmq_export.publishing.card import model_card
from epmq_export.publishing.hub import Upload, push, require_name, uploads
from epmq_export.publishing.report import REPORT, read_report
from epmq_export.tensors.directory import CARD, CONFIG
from epmq_export.tensors.modules import MODULES

_SAID = (
    CONFIG,
    "tokenizer_config.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "genai_config.json",
    CLASSES,
)
"""The JSON files beside ONNX models that say how clients use them; `modules.json`, a list, says it, too."""


@dataclass(frozen=True)
class Pushed:
    """What goes to the hub, or went there."""

    repository: str
    """Its id on the hub, USER/NAME."""

    files: Sequence[Upload]
    """The files, in the order of their places in the repository."""

    url: str | None
    """The address of the commit; None where nothing was uploaded."""


def write_card(output: Path) -> None:
    """Write OUTPUT/README.md, whole or not at all, from OUTPUT/report.json and what clients read beside the
    models.
    """
    said: dict[str, object] = {}
    for folder in (output / PACKED, output / "onnx"):
        said |= {name: files.read_json(folder / name) for name in _SAID if (folder / name).is_file()}
        if (folder / MODULES).is_file():
            said[MODULES] = files.read_json_list(folder / MODULES)
    card = model_card(read_report(output / REPORT), said)
    with files.whole(output / CARD) as built:
        built.write_text(card, encoding="utf-8")


def publish(output: Path, repository: str, private: bool, dry_run: bool) -> Pushed:
    """Upload an output's files, in one commit; with `dry_run` say only which.

    Raises RecipeError for a name that no repository can have, InputError for an output that no run has
    finished or whose files have changed since, and VerificationFailed for one whose files are not as good as
    their reference.
    """
    require_name(repository)
    report = read_report(output / REPORT)
    found = uploads(output, report)
    if dry_run:
        return Pushed(repository, found, None)
    return Pushed(repository, found, push(found, repository, f"Add {report.about.name}", private))
