"""The client transformers.js in Node: sentence encoders and decoder language models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epmq_export.errors import InputError
from epmq_export.files import read_json, read_json_list
from epmq_export.models.samples import Sample
from epmq_export.tensors.directory import CONFIG
from epmq_export.tensors.modules import MODULES, pooling_option
from epmq_export.verification.runtimes.client import folder_of, is_sentence_encoder, spoken_of, texts_of
from epmq_export.verification.runtimes.one_by_one import ONE_BY_ONE
from epmq_export.verification.runtimes.process import Program
from epmq_export.verification.runtimes.transformers_js.package import NAME, installed, look, node

_WORKER = Path(__file__).with_name("worker.mjs")
_TELLING = (r"error: (.*)",)
_SECONDS_A_TEXT = 5.0
_ENDINGS = {"q4": "_q4", "fp32": ""}
"""The endings of models' names by the types of config.json."""


@dataclass(frozen=True)
class TransformersJs:
    """transformers.js, which loads the model that config.json names and computes as its options say."""

    seconds: float = 120.0
    """The seconds that the process may take to start, besides 5 seconds a text."""

    memory: int = 8 << 30
    """The bytes that the process may take, besides three times the file, where the system can bound it."""

    name = NAME
    packages = ()  # npm installs it. The version has those of its packages.
    copies = 0.0
    dequantiser = None  # It decodes weights within its graphs only.

    def version(self) -> str:
        return installed()

    def outputs(self, path: Path, samples: Sequence[Sample], *, exact: bool = False) -> NDArray[np.float32]:
        """Return the embeddings, float32 [len(samples), width], or of a language model the scores of tokens
        or the answers, as `Runtime.outputs` says.

        Raises InputError where the folder names another model, where it refuses the model, and for samples
        that are no texts.
        """
        folder = folder_of(path)
        embeds = is_sentence_encoder(folder)
        asked = embedding_request(path, samples, exact) if embeds else _language_request(path, samples, exact)
        request = {
            **asked,
            "root": f"{folder.absolute().parent}/",
            "name": folder.absolute().name,
            "library": look(Path.cwd())["file"],
        }
        program = Program(self.name, (node(), str(_WORKER)), _TELLING, foreign=True)
        memory, seconds = self.memory + 3 * path.stat().st_size, self.seconds + _SECONDS_A_TEXT * len(samples)
        (found,) = program.answers(path, [request], read_numbers, memory=memory, seconds=seconds)
        return found.reshape(len(samples), -1) if embeds else found[1:].reshape(-1, int(found[0]))

    def reads(self, text: str) -> bool:
        return readable(text)

    def notes(self, files: Sequence[Path]) -> dict[str, Any]:
        """Return nothing: it does not tell how it runs them."""
        return {}


def readable(text: str) -> bool:
    """Return whether the library's tokenizers can be right on a text. Those of Hugging Face lower letter by
    letter, where JavaScript lowers a Greek sigma by its place in the word, and part ideographs beyond U+FFFF,
    which the library leaves together (4.3.2).
    """
    as_letters = text.lower() == "".join(letter.lower() for letter in text)
    return as_letters and not any(0x20000 <= ord(letter) < 0x30000 for letter in text)


def embedding_request(path: Path, samples: Sequence[Sample], exact: bool) -> dict[str, Any]:
    """Return what outputs.mjs is asked of a sentence encoder, without the place of its folder.

    Raises InputError where its folder tells the library to load another model than this one.
    """
    texts = texts_of(path, samples)
    _require_loaded(path)
    return {"texts": texts, "exact": exact, "options": _options(folder_of(path))}


def _language_request(path: Path, samples: Sequence[Sample], exact: bool) -> dict[str, Any]:
    """Return what scores.mjs is asked of a language model, without the place of its folder.

    Raises InputError where its folder tells the library to load another model than this one.
    """
    asked = spoken_of(path, samples)
    _require_loaded(path)
    return {"samples": asked, "exact": exact, "one_by_one": ONE_BY_ONE}


def _require_loaded(path: Path) -> None:
    """Raise InputError where a model's folder tells the library to load another model."""
    config = folder_of(path) / CONFIG
    told = read_json(config).get("transformers.js_config") or {}
    expected = path.with_name(f"model{_ENDINGS.get(str(told.get('dtype')), '')}.onnx")
    if path != expected:
        raise InputError(f"{path}: {config} has {NAME} load {expected}, expected this model")


def _options(folder: Path) -> dict[str, Any]:
    """Return the options of the call, which users take from the files of sentence-transformers."""
    modules = {
        str(module["type"]).rpartition(".")[2]: module["path"] for module in read_json_list(folder / MODULES)
    }
    pooling = read_json(folder / modules["Pooling"] / CONFIG)
    return {"pooling": pooling_option(pooling), "normalize": "Normalize" in modules}


def read_numbers(path: Path) -> NDArray[np.float32]:
    """Return the answer of a program that writes float32 without a header."""
    return np.fromfile(path, "<f4").astype(np.float32)
