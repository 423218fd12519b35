"""The runtime clip.cpp, called through the package clip-cpp in processes of its own."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from transformers import CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from epmq_export import threads
from epmq_export.errors import InputError, first_line
from epmq_export.files.scratch import Scratch
from epmq_export.models.processor import preprocess
from epmq_export.models.runtime import Dequantiser
from epmq_export.models.samples import Picture, Sample
from epmq_export.verification.runtimes.clip_cpp import library
from epmq_export.verification.runtimes.process import Answer, Program, own_module, read_array, shares

# With fewer than _SHARE samples, another process costs more than it saves. No more than _MOST pictures for
# each core are on disk at once.
_SHARE, _MOST = {"texts": 64, "images": 4}, 256
# The seconds that a sample may take, besides the start. One thread must have time to run a picture through an
# H/14.
_SECONDS = {"keys": 0.0, "texts": 10.0, "images": 120.0}
# These find, in this order: a failed assertion, an exception that nothing caught, the words of the worker,
# and the last words of clip.cpp and its ggml.
_TELLING = (
    r"GGML_ASSERT: \S+:\d+: (.*)",
    r"what\(\): +(.*)",
    r"(This g\w+ file seems .*)",
    r"error: (.*)",
    r"\w+: (Unrecognized number of tensors: \d+)",
    r"(.*not enough space.*)",
)
_WORKER = own_module("epmq_export.verification.runtimes.clip_cpp.worker")
_PROGRAM = Program("clip.cpp", _WORKER, _TELLING)


@dataclass(frozen=True)
class Images:
    """The description of pictures in a model's file."""

    side: int
    mean: Sequence[float]
    std: Sequence[float]

    def pixels(self, pictures: Sequence[Picture]) -> NDArray[np.float32]:
        """Return pictures as float32 [n, side, side, 3]: resized, cropped and normalised by transformers'
        processor. clip.cpp's own resizing gives other pixels.
        """
        square = {"height": self.side, "width": self.side}
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": self.side},
            crop_size=square,
            image_mean=list(self.mean),
            image_std=list(self.std),
        )
        return np.ascontiguousarray(preprocess(processor, pictures).transpose(0, 2, 3, 1))


@dataclass(frozen=True)
class Texts:
    """The description of texts in a model's file."""

    tokens: Sequence[str]
    merges: Sequence[str]
    start: int
    end: int
    context: int

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, with start and end, cut to the context before the end, without
        padding. They are made by transformers' tokenizer from the file's own tokens and merges. That of
        clip.cpp would split words greedily, and begin and end every text with OpenAI's ids.

        A text that spells out the end token is cut there, because CLIP reads its output at the first end, and
        clip.cpp at the last token.
        """
        start, end = self.tokens[self.start], self.tokens[self.end]
        library: Any = CLIPTokenizer  # The library has no type hints.
        tokenizer = library(
            vocab={token: index for index, token in enumerate(self.tokens)},
            merges=[tuple(merge.split(" ")) for merge in self.merges],
            bos_token=start,
            eos_token=end,
            unk_token=end,
        )
        found: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=self.context)["input_ids"]
        return [ids[: ids.index(self.end) + 1] for ids in found]


@dataclass(frozen=True)
class ClipCpp:
    """clip.cpp, used for its graph alone. Pictures are resized and texts are tokenised here, as the file
    says, because clip.cpp does both in ways of its own.
    """

    seconds: float = 120.0
    """The seconds that a process may take to start, besides 10 seconds a text or 120 a picture."""

    memory: int = 8 << 30
    """The bytes of address space that a process may take, besides three times the file."""

    name = _PROGRAM.runtime
    packages = (library.PACKAGE,)
    copies = 0.0

    def version(self) -> str:
        return library.installed()

    def outputs(self, path: Path, samples: Sequence[Sample], *, exact: bool = False) -> NDArray[np.float32]:
        """Return the outputs of pictures or of texts, float32 [len(samples), projection_dim], not normalised.

        `exact` asks for nothing that clip.cpp could do, so give it a file of F32 tensors. Raises InputError
        where it refuses the file, or where there are samples of both kinds or of none.
        """
        self.version()
        pictures = [sample for sample in samples if isinstance(sample, Picture)]
        texts = [sample for sample in samples if isinstance(sample, str)]
        if pictures and texts:
            raise InputError(f"{path}: found texts among pictures, expected one kind of samples")
        if not samples:
            raise InputError(f"{path}: no samples to run it on")
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        return np.concatenate(
            [*(self._of_pictures(path, pictures) if pictures else self._of_texts(path, texts))]
        )

    @property
    def dequantiser(self) -> Dequantiser:
        """Return the dequantiser of clip.cpp's own ggml: F16, Q4_0, Q4_1 and Q8_0, which are all that it can
        read.
        """
        self.version()
        return library.dequantise

    def reads(self, text: str) -> bool:
        return True

    def notes(self, files: Sequence[Path]) -> dict[str, Any]:
        return {}

    def _of_pictures(self, path: Path, pictures: Sequence[Picture]) -> Iterator[NDArray[np.float32]]:
        """Yield their outputs in rounds, so that the pixels of a large data set are never all on disk."""
        images = Images(**self._keys(path, "images"))
        turn = _MOST * threads.asked()
        for start in range(0, len(pictures), turn):
            with Scratch("pixels") as folder:
                parts = shares(pictures[start : start + turn], _SHARE["images"])
                files = [folder / f"{index}.npy" for index in range(len(parts))]
                for file, part in zip(files, parts, strict=True):
                    np.save(file, images.pixels(part))
                most = max(map(len, parts))
                yield from self._ask(path, "images", [str(file) for file in files], most, read_array)

    def _of_texts(self, path: Path, texts: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        given = Texts(**self._keys(path, "texts"))
        try:
            ids = given.ids(texts)
        except Exception as error:  # The library raises whatever its parsers raise.
            raise InputError(f"{path}: the tokenizer in it cannot be used ({first_line(error)})") from None
        parts = shares(ids, _SHARE["texts"])
        yield from self._ask(path, "texts", parts, max(map(len, parts)), read_array)

    def _keys(self, path: Path, kind: Literal["images", "texts"]) -> dict[str, Any]:
        (answer,) = self._ask(path, "keys", [kind], 0, _read_keys)
        return answer

    def _ask(
        self,
        path: Path,
        want: Literal["keys", "images", "texts"],
        parts: Sequence[Any],
        most: int,
        load: Callable[[Path], Answer],
    ) -> list[Answer]:
        """Return the answers to the parts, with a process for each. `most` is the number of samples of the
        largest part.
        """
        return _PROGRAM.answers(
            path,
            [{"path": str(path), "want": want, "samples": part} for part in parts],
            load,
            memory=self.memory + 3 * path.stat().st_size,
            seconds=self.seconds + _SECONDS[want] * most,
        )


def _read_keys(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
