"""Models by their location: a directory of safetensors, a GGUF file, a Hugging Face id, or a LoRA adapter on
a base. Tensors are read lazily, by name.
"""

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import huggingface_hub
import torch
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from epmq_export.errors import InputError, first_line, near_file
from epmq_export.files import read_json, refuse_pointer
from epmq_export.tensors import lora
from epmq_export.tensors.companions import COMPANIONS
from epmq_export.tensors.directory import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CARD,
    CONFIG,
    PICKLES,
    QUANTIZATION,
    SHARD_INDEX,
    WEIGHTS,
    pickle_refusal,
)
from epmq_export.tensors.fitted import fit, left_out, read
from epmq_export.tensors.gguf_file import is_gguf
from epmq_export.tensors.modules import DENSE, dense_tensors
from epmq_export.tensors.naming import Naming
from epmq_export.tensors.nearly import looks_like
from epmq_export.tensors.shards import StoredWeights
from epmq_export.tensors.source import Joined, Passed, TypedSource

log = logging.getLogger(__name__)
# Pickles that a trainer leaves beside a model and that are no weights.
_OF_A_TRAINING = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")
# The dtypes of the codes of quantised matrices, and the names of the numbers that belong to them.
_CODES = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32})
_SCALES = re.compile(
    r"\.(qweight|qzeros|g_idx|SCB|weight_format|absmax|quant_map|nested_absmax|quant_state\..*|scales|"
    r"zero_point|(weight|input|output)_(scale|scale_inv|scale_2|packed|zero_point|shape|g_idx))$|"
    r"_(blocks|scales)$"
)
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
_HUB_FILES = (*COMPANIONS, CARD, WEIGHTS, "*-of-*.safetensors", ADAPTER_WEIGHTS, f"*_{DENSE}/{WEIGHTS}")


class Checkpoint(TypedSource, Protocol):
    """A model's tensors, with the place that they were opened from."""

    location: str
    """The location as the user wrote it."""

    directory: Path
    """The directory of its files on this machine; for an adapter, the adapter's directory."""

    model_directory: Path
    """The directory of the model's config; for an adapter, that of the model it was trained on."""

    naming: Naming
    """What the model calls its tensors."""

    changed: frozenset[str] | None
    """The tensors that an adapter changes, by the names of its base; None for a whole model."""

    notes: Sequence[str]
    """What of the model is not read, a sentence each."""

    @property
    def own(self) -> TypedSource:
        """Return the model's tensors under the names that it gives them itself, among them those of a head
        that its base has no place for.
        """
        ...

    def files(self) -> list[Path]:
        """Return every file that decides its tensors, sorted. An adapter on the recipe's base leaves out the
        files of the base.
        """
        ...


OpenGguf = Callable[[str, Path], Checkpoint]
"""A function that opens a GGUF file as a checkpoint. It takes the location as the user wrote it and the path.
`converters` gives it, because only a converter knows which family's names and config the file has.
"""


NamingOf = Callable[[Path], Naming]
"""A function that returns what the model of a directory calls its tensors, by its config.json. `converters`
gives it.
"""


class Weights(Passed):
    """A directory with model.safetensors, or with an index and its shards. Opening it reads the headers only,
    and of a head that is said to be the embeddings whether it is.

    Names are without what wrappers put before them. Such a head, and buffers that are no weights, are left
    out. The tensors of sentence-transformers' Dense modules, in folders of their own, are the model's, too.
    """

    changed: frozenset[str] | None = None
    notes: Sequence[str] = ()

    def __init__(self, location: str, directory: Path, naming: Naming) -> None:
        self.location, self.directory, self.model_directory = location, directory, directory
        self._settings = [directory / CONFIG] if (directory / CONFIG).exists() else []
        self._stored = StoredWeights(directory)
        _require_plain(directory, self._stored)
        factor = next((name for name in self._stored.names() if ".lora_A." in name), None)
        if factor is not None:
            raise InputError(
                f"{self._stored.place(factor)}: found {factor}, expected no factors of an adapter beside the "
                "weights: save the adapter alone, or the model after merge_and_unload (both of peft)"
            )
        self._modules = dense_tensors(directory)
        self.naming = naming
        found: TypedSource = read(self._stored, naming, location)
        super().__init__(Joined([found, *self._modules.values()]) if self._modules else found)

    @property
    def own(self) -> TypedSource:
        return self

    def files(self) -> list[Path]:
        return sorted([*self._stored.files(), *self._modules, *self._settings])


class Adapted(lora.Lora):
    """A LoRA adapter on a base, as a checkpoint."""

    def __init__(self, location: str, directory: Path, base: Checkpoint, base_is_own: bool) -> None:
        super().__init__(directory, base, base.naming)
        self.naming = base.naming
        self.notes: Sequence[str] = left_out(location, self.left_out)
        self.location, self.directory, self.model_directory = location, directory, base.model_directory
        self._base_files = base.files() if base_is_own else []

    @property
    def own(self) -> TypedSource:
        return Joined([self, self.saved])

    def files(self) -> list[Path]:
        return sorted({self.directory / ADAPTER_CONFIG, self.directory / ADAPTER_WEIGHTS, *self._base_files})


class Fitted(Passed):
    """A checkpoint under the names of a base."""

    def __init__(self, opened: Checkpoint, base: Checkpoint) -> None:
        self.location, self.directory, self.model_directory = (
            opened.location,
            opened.directory,
            opened.model_directory,
        )
        self.naming, self._opened = base.naming, opened
        fitted = fit(base, opened)
        self.changed: frozenset[str] | None = None
        if opened.changed is not None:
            self.changed = frozenset(name for name, own in fitted.originals.items() if own in opened.changed)
        self.notes: Sequence[str] = (*opened.notes, *fitted.notes)
        super().__init__(fitted.source)

    @property
    def own(self) -> TypedSource:
        return self._opened.own

    def files(self) -> list[Path]:
        return self._opened.files()


def open_checkpoint(
    location: str | Path,
    base: Checkpoint | None = None,
    relative_to: Path | None = None,
    *,
    open_gguf: OpenGguf | None = None,
    naming_of: NamingOf | None = None,
) -> Checkpoint:
    """Open a model: a directory or GGUF file (relative to `relative_to`), a hub id with an optional
    `@revision`, or `BASE+ADAPTER`. With `base`, its tensors get the names that they have there.

    A directory that holds a LoRA adapter needs `base`, unless it is written as `BASE+ADAPTER`. A hub id is
    tried only where no local path has that name. Raises InputError, naming file and tensor, for a model that
    cannot be found or is not whole, and for a GGUF file where there is no `open_gguf`.
    """
    text = str(location)
    path = (relative_to or Path()) / Path(text).expanduser()
    opened: Checkpoint
    if "+" in text and not path.exists():
        left, _, right = text.partition("+")
        own = open_checkpoint(left, None, relative_to, open_gguf=open_gguf, naming_of=naming_of)
        directory = _directory(right, relative_to)
        if not lora.is_adapter(directory):
            raise InputError(
                f"{text}: {right} is no LoRA adapter (it has no {ADAPTER_CONFIG}), expected BASE+ADAPTER"
            )
        opened = Adapted(text, directory, own, base_is_own=True)
    elif is_gguf(path):
        if open_gguf is None:
            raise InputError(f"{path}: found a GGUF file, expected the directory of a model")
        opened = open_gguf(text, path)
    else:
        opened = _open_directory(text, _directory(text, relative_to), base, naming_of)
    return opened if base is None else Fitted(opened, base)


def _open_directory(
    text: str, directory: Path, base: Checkpoint | None, naming_of: NamingOf | None
) -> Checkpoint:
    """Open the model or the adapter in a directory."""
    if lora.is_adapter(directory):
        if (directory / WEIGHTS).exists():
            raise InputError(
                f"{directory}: holds both an adapter ({ADAPTER_CONFIG}) and a full model ({WEIGHTS}); keep "
                "one of them"
            )
        if base is None:
            raise InputError(
                f"{directory} is a LoRA adapter: name it with the model that it was trained on, as "
                "BASE+ADAPTER, or give that model as the base"
            )
        return Adapted(text, directory, base, base_is_own=False)
    if not (directory / WEIGHTS).exists() and not (directory / SHARD_INDEX).exists():
        raise _no_weights(directory)
    return Weights(text, directory, _naming(directory, base, naming_of))


def _naming(directory: Path, base: Checkpoint | None, naming_of: NamingOf | None) -> Naming:
    """Return what the model of a directory calls its tensors: what its base does, where it has no config, or
    one of a model that is not known.
    """
    found = naming_of(directory) if naming_of is not None else Naming()
    return found if base is None or found.needed is not None else base.naming


def _require_plain(directory: Path, stored: StoredWeights) -> None:
    """Raise InputError for quantised weights, which config.json or the tensors themselves tell. Where the
    config says so of weights that are plain, the key is left over from a training on quantised ones, and the
    log has a line.
    """
    config, matrices = directory / CONFIG, [name for name in stored.names() if len(stored.shape(name)) == 2]
    codes = next((name for name in matrices if stored.dtype(name) in _CODES), None)
    scales = next((name for name in stored.names() if _SCALES.search(name)), None)
    said = config.exists() and bool(read_json(config).get(QUANTIZATION))
    plain = codes is None and scales is None
    if said and (not plain or not matrices):
        raise InputError(
            f"{config}: found {QUANTIZATION}{'' if plain else f' and tensor {codes or scales}'}, expected an "
            "unquantised model: merging needs the weights as they were trained"
        )
    if codes is not None and scales is not None:
        raise InputError(
            f"{stored.place(codes)}: tensors {codes} and {scales} are of quantised weights, expected an "
            "unquantised model: merging needs the weights as they were trained"
        )
    if said:
        log.warning(
            "%s: %s is left over: the weights beside it are plain and are taken so", config, QUANTIZATION
        )


def _directory(text: str, relative_to: Path | None) -> Path:
    path = (relative_to or Path()) / Path(text).expanduser()
    if path.is_dir():
        return path
    if path.suffix in PICKLES and path.is_file():
        raise InputError(f"{path}: {pickle_refusal(path.name)}")
    if path.exists():
        refuse_pointer(path, "found a file, expected the directory of a model")
        its = f", such as the one that it lies in, {path.parent}" if path.suffix == ".safetensors" else ""
        raise InputError(f"{path}: found a file, expected the directory of a model{its}, or a GGUF file")
    if not _HUB_ID.fullmatch(text) or text.startswith("."):
        raise InputError(f"{path}: no such directory")
    repository, _, revision = text.partition("@")
    try:
        snapshot = huggingface_hub.snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=list(_HUB_FILES),
            ignore_patterns=["*/*-of-*.safetensors"],
        )
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise InputError(
            f"{text}: no directory {path}, and the Hugging Face hub cannot be reached and its cache has "
            f"no such model{near_file(path, text)}"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise InputError(
            f"{text}: no directory {path}, and the Hugging Face hub does not give it "
            f"({first_line(error)}){near_file(path, text)}"
        ) from None
    return Path(snapshot)


def _no_weights(directory: Path) -> InputError:
    pickles = sorted(
        path.name
        for path in directory.iterdir()
        if path.suffix in PICKLES and not path.name.startswith(_OF_A_TRAINING)
    )
    if pickles:
        return InputError(f"{directory}: {pickle_refusal(pickles[0])}")
    found = looks_like(directory)
    if found:
        return InputError(f"{directory}: found no weights of a model: {found}")
    return InputError(
        f"{directory}: found no weights, expected {WEIGHTS}, {SHARD_INDEX} with its shards, or a LoRA "
        "adapter "
        f"({ADAPTER_CONFIG}, {ADAPTER_WEIGHTS})"
    )
