"""Model families, a folder each, or one for a group of them: blocks in the order of the data, names, layouts
of files, tokenizer.

A folder has `family.py` with a function `open_family(directory, model_type)`, and what is asked without
opening a model: `names.py` with a function `naming(config)`, and `keys.py`, which says of each key of
config.json whether it changes what is computed. Beside them is what the family needs (blocks.py, kinds.py
where one class serves several kinds, gguf.py, onnx.py). `FROZEN` in its `__init__.py`, where it is there, are
the patterns of what a merge leaves as the base's: known without opening a model; `ABOUT` beside it has the
family's rows in docs/recipe.md. `shared` and `tokenizers` hold what several families need; `from_gguf` reads
GGUF files as models.

Who adds a family adds its folder, its line in `FAMILIES`, its model in tests/families/models.py, which gives
it the tests of the contract, and its rows in the docs (docs/adding.md). Nothing else names a family.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from converters.shared.keys import Keys, together
from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.models.family import Family
from epmq_export.tensors.checkpoint import Checkpoint
from epmq_export.tensors.directory import CONFIG
from epmq_export.tensors.gguf_file import is_gguf
from epmq_export.tensors.modules import MODULES
from epmq_export.tensors.naming import Naming, Ties
from epmq_export.tensors.nearly import holds_model, looks_like

FAMILIES = {
    "bert": "bert",
    "roberta": "bert",
    "xlm-roberta": "bert",
    "camembert": "bert",
    "distilbert": "bert",
    "mpnet": "bert",
    "modernbert": "modernbert",
    "clip": "clip",
    "siglip": "siglip",
    "vit": "vit",
    "deit": "vit",
    "dinov2": "vit",
    "dinov2_with_registers": "vit",
    "dinov3_vit": "vit",
    "llama": "decoder",
    "mistral": "decoder",
    "mixtral": "decoder",
    "qwen2": "decoder",
    "qwen3": "decoder",
    "qwen3_moe": "decoder",
    "gemma2": "decoder",
    "gemma3_text": "decoder",
    "smollm3": "decoder",
    "granite": "decoder",
    "olmo2": "decoder",
    "olmoe": "decoder",
    "phi3": "decoder",
    "t5": "t5",
}
"""The folder of each `model_type`, imported when a model of it is opened: a merge of one needs no other's."""

REFUSED = {"siglip2": "whose pictures have no size of their own, expected a SigLIP for pictures of one size"}
"""Why a model of a kind that many ask for is refused, by `model_type`."""

EMBEDDERS = {"qwen3": "embedder", "gemma3_text": "embedder"}
"""The folder of each `model_type` of `FAMILIES` that is another family where sentence-transformers' modules
stand beside the model.
"""

# What most language models of no family here call their heads and embeddings.
_HEAD = "lm_head.weight"
_EMBEDDINGS = tuple(
    f"{name}.weight"
    for name in (
        "model.embed_tokens",
        "transformer.wte",
        "wte",
        "model.decoder.embed_tokens",
        "model.shared",
        "shared",
    )
)


def open_family(directory: Path) -> Family:
    """Return the family of a model directory, by the `model_type` of its config.json.

    InputError where there is none, where no family is known for it, and where the model is none that the
    family can have.
    """
    from converters.shared.config import require_buildable  # which imports transformers

    model_type = _model_type(directory)
    module = import_module(f"{__name__}.{_folder(directory, model_type)}.family")
    opened: Family = module.open_family(directory, model_type)
    require_buildable(model_type, directory / CONFIG, opened)
    return opened


def open_gguf(location: str, path: Path) -> Checkpoint:
    """Return a GGUF file as a checkpoint. `location` is what the user called it.

    Raises InputError for a file that is no whole model of a known architecture.
    """
    from converters.from_gguf.checkpoint import GgufBase  # which needs the library for config and tokenizer

    return GgufBase(location, path)


def described_in(file: Path) -> Path | None:
    """Return the directory of the config and tokenizer of a written file: the file's own, where it is a GGUF
    file with both, or the one that it lies in, or the one above. None where there is none.

    Raises InputError for a GGUF file that is not whole.
    """
    if is_gguf(file):
        from converters.from_gguf.checkpoint import described

        if (own := described(file)) is not None:
            return own
    return next((place for place in (file.parent, file.parent.parent) if (place / CONFIG).is_file()), None)


def frozen(directory: Path) -> Sequence[str]:
    """Return the patterns of what a merge leaves as the base's; none for a model of no known family."""
    try:
        folder = _folder(directory, _model_type(directory))
    except InputError:
        return ()
    patterns: Sequence[str] = getattr(import_module(f"{__name__}.{folder}"), "FROZEN", ())
    return patterns


def require_same_settings(base: Path, expert: Path, name: str) -> list[str]:
    """Return a sentence for each setting beside an expert's weights that differs from the base's and changes
    no number of the merge. `name` is the expert's in them.

    Raises InputError, with both values, for one that changes what is computed from the same weights. Both
    are model directories; what a directory lacks is not compared.
    """
    from converters.shared.same_config import require_same_config

    try:
        keys = _keys_in(_folder(base, _model_type(base)))
    except InputError:
        keys = together(map(keys_of, FAMILIES))
    notes = require_same_config(base, expert, name, keys)
    for compare in keys.beside:
        notes += compare(base, expert, name)
    return notes


def keys_of(model_type: str) -> Keys:
    """Return the keys of the config.json of a model of a known kind, by what they are to a merge."""
    return _keys_in(FAMILIES[model_type])


def naming(directory: Path) -> Naming:
    """Return what a model calls its tensors; of a model of no known family, what most call the head and the
    embeddings alone.
    """
    if not (directory / CONFIG).is_file():
        return Naming()
    config = read_json(directory / CONFIG)
    model_type = str(config.get("model_type"))
    if model_type not in FAMILIES:
        tied = config.get("tie_word_embeddings") is not False  # The library's default.
        return Naming(ties=Ties(_HEAD, _EMBEDDINGS, tied, splits=not config.get("is_encoder_decoder")))
    found: Naming = import_module(f"{__name__}.{_folder(directory, model_type)}.names").naming(config)
    return found


def _folder(directory: Path, model_type: str) -> str:
    """Return the folder of the family of a model of a known kind."""
    embeds = model_type in EMBEDDERS and (directory / MODULES).is_file()
    return EMBEDDERS[model_type] if embeds else FAMILIES[model_type]


def _keys_in(folder: str) -> Keys:
    found: Keys = import_module(f"{__name__}.{folder}.keys").KEYS
    return found


def _model_type(directory: Path) -> str:
    path = directory / CONFIG
    if not path.is_file():
        why = "" if holds_model(directory) else looks_like(directory)
        raise InputError(f"{directory} is no model directory: {why or 'it has no config.json'}")
    found = read_json(path).get("model_type")
    if found in REFUSED:
        raise InputError(f"{path}: model_type is {found!r}, {REFUSED[found]}")
    if not isinstance(found, str) or found not in FAMILIES:
        raise InputError(f"{path}: model_type is {found!r}; supported: {', '.join(FAMILIES)}")
    return found
