"""The runtime ONNX Runtime, in this process, on the CPU or, where onnxruntime-gpu is installed, on CUDA."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from epmq_export import threads
from epmq_export.errors import InputError, MissingRuntime, first_line
from epmq_export.files.scratch import Scratch
from epmq_export.models.classifiers import is_scores
from epmq_export.models.processor import load_processor, preprocess
from epmq_export.models.samples import Picture, Question, Sample, given_to_tokenizer
from epmq_export.models.tokenizer import shared_tokenizer
from epmq_export.verification.runtimes.onnxruntime import decoder as onnx_language
from epmq_export.verification.runtimes.onnxruntime import encoder_decoder as onnx_encoder_decoder
from epmq_export.verification.runtimes.onnxruntime.encoder_decoder import ENCODER, FIRST, MERGED, NEXT, Halves

if TYPE_CHECKING:
    import onnxruntime

# The ending of a model's files. Files with other endings hold weights of one.
ENDING = ".onnx"
# The names of outputs. The first of them that a model has is read. A joint model of texts and pictures has
# one for each.
TEXTS_OUT = ("sentence_embedding", "text_embeds", "pooler_output")
PICTURES_OUT = ("image_embeds", "pooler_output")
VISION, TEXT = "vision_model", "text_model"
BATCH = 32
# Each `model_type` whose users pad every text to the longest that it has room for, and mask nothing.
PADDED = ("siglip",)
SILENT = 4  # Every failure that the runtime logs is raised as well.


class OnnxRuntime:
    """ONNX Runtime, which runs a model as a user would: with the tokenizer and the length limit that lie
    beside it, never with the family's.

    It runs in this process: on 1,500 models with bytes changed at random or the end cut off, version 1.32
    raised an error or ran, and never died.
    """

    name = "onnxruntime"
    packages = ("onnxruntime",)
    copies = 4.0  # Measured, while it opens a model and lays its weights out for its kernels.
    dequantiser = None  # It decodes weights within its graphs only.

    def version(self) -> str:
        return str(_module().__version__)

    def outputs(self, path: Path, samples: Sequence[Sample], *, exact: bool = False) -> NDArray[np.float32]:
        """Return the outputs, float32 [len(samples), width], as `Runtime.outputs` says.

        `exact` multiplies in float32 (accuracy level 0). By default 4-bit layers round their inputs to 8 bits
        (level 4). Raises InputError where the runtime refuses the file or fails on it, and for samples of
        both kinds.
        """
        pictures = [sample for sample in samples if isinstance(sample, Picture)]
        texts = [sample for sample in samples if not isinstance(sample, Picture)]
        if pictures and texts:
            raise InputError(f"{path}: found texts among pictures, expected one kind of samples")
        path = _for_texts(path) if texts else path
        session = open_session(path, exact=exact)
        inputs = {value.name: value.shape for value in session.get_inputs()}
        if texts and path.name.startswith((ENCODER, MERGED)):
            token_by_token = exact or isinstance(texts[0], Question)
            return _scored(
                path,
                lambda tokens: onnx_encoder_decoder.scores(
                    _halves(session, path, exact, token_by_token), texts, tokens
                ),
            )
        if any(name.startswith("encoder_") for name in inputs):
            raise InputError(
                f"{path}: found a decoder alone, expected the file {ENCODER}*.onnx or {MERGED}*.onnx"
            )
        if onnx_language.is_language(inputs):
            return _scored(path, lambda tokens: onnx_language.scores(session, texts, tokens, exact))
        wanted = PICTURES_OUT if pictures else TEXTS_OUT
        known = [value.name for value in session.get_outputs()]
        read = [name for name in wanted if name in known][:1]
        # Classifiers have their scores in place of an embedding, one behind the other. CLIP has scores beside
        # its embeddings.
        if not read:
            read = [name for name in known if is_scores(name)]
        if not read:
            raise InputError(f"{path}: it has no output {' or '.join(wanted)}")
        folder = _beside(path)
        feeds = _of_pictures(folder, pictures) if pictures else _of_texts(folder, texts)
        results: dict[int, NDArray[np.float32]] = {}
        for rows, given in feeds:
            results.update(zip(rows, _embedded(session, path, read, given), strict=True))
        return np.stack([results[i] for i in range(len(samples))]).astype(np.float32)

    def reads(self, text: str) -> bool:
        return True

    def notes(self, files: Sequence[Path]) -> dict[str, Any]:
        """Return `fused`: the number of quantised linears of the models that it runs as MatMulNBits."""
        return {"fused": sum(_fused(file) for file in files if file.suffix == ENDING)}


def _module() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingRuntime(f"ONNX Runtime is not installed ({error}): pip install onnxruntime") from None
    module: ModuleType = onnxruntime
    return module


def open_session(
    path: Path, *, exact: bool = False, optimised: Path | None = None
) -> "onnxruntime.InferenceSession":
    """Return a silent session. The graph that it really runs is written to `optimised`.

    Raises InputError where the runtime refuses the file.
    """
    runtime = _module()
    # 0 is the library's own choice, which knows no bounds.
    most = threads.asked() if threads.asked() < (os.cpu_count() or 1) else 0
    options = runtime.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = most
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
        # Its weights go beside it, because a model may have more of them than one file holds.
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimised.name}_data"
        )
    if exact:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
    providers: list[str | tuple[str, dict[str, str]]] = ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" in runtime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0" if exact else "1"}))
    try:
        # The runtime's fallback would print something and then try the same once more.
        return runtime.InferenceSession(path, options, providers=providers, enable_fallback=0)
    except Exception as error:  # The runtime has a class of its own for every status.
        raise InputError(f"{path}: ONNX Runtime refuses it ({first_line(error)})") from None


def _embedded(
    session: "onnxruntime.InferenceSession",
    path: Path,
    outputs: Sequence[str],
    given: Mapping[str, NDArray[Any]],
) -> NDArray[Any]:
    """Return some outputs of one batch, side by side."""
    feed = {
        value.name: given[value.name] if value.name in given else _filler(path, value.name, value.shape)
        for value in session.get_inputs()
    }
    try:
        found = session.run(outputs, feed)
    except Exception as error:  # The runtime has a class of its own for every status.
        raise InputError(f"{path}: ONNX Runtime fails on it ({first_line(error)})") from None
    return np.concatenate(found, axis=1)


def _fused(path: Path) -> int:
    """Return how many quantised linears of a model it runs as MatMulNBits."""
    with Scratch("verify") as scratch:
        optimised = scratch / "optimised.onnx"
        open_session(path, optimised=optimised)
        nodes = onnx.load(optimised, load_external_data=False).graph.node
    return sum(node.op_type == "MatMulNBits" for node in nodes)


def _beside(path: Path) -> Path:
    """Return the folder of a model's config and tokenizer: its own, or the one that its folder `onnx` is
    in.
    """
    for folder in (path.parent, path.parent.parent):
        if (folder / "config.json").is_file():
            return folder
    raise InputError(f"{path}: no config.json beside it, nor beside its folder")


Feed = tuple[list[int], dict[str, NDArray[Any]]]
"""The indices of some samples, and their inputs by name."""


def _for_texts(path: Path) -> Path:
    """Return the file that embeds texts. A model that is exported as several files has another one for
    pictures.
    """
    return path.with_name(path.name.replace(VISION, TEXT, 1)) if path.name.startswith(VISION) else path


def _filler(path: Path, name: str, shape: Sequence[Any]) -> NDArray[Any]:
    """Return the smallest value of an input of a joint model on which the wanted output does not depend."""
    if name == "pixel_values":
        return np.zeros([size if isinstance(size, int) else 1 for size in shape], np.float32)
    if name in ("input_ids", "attention_mask"):
        return np.ones((1, 2), np.int64)
    raise InputError(f"{path}: its input {name} is none that the tokenizer or the processor beside it gives")


def _of_pictures(folder: Path, pictures: Sequence[Picture]) -> Iterator[Feed]:
    processor = load_processor(folder)
    for start in range(0, len(pictures), BATCH):
        part = pictures[start : start + BATCH]
        yield list(range(start, start + len(part))), {"pixel_values": preprocess(processor, part)}


def _of_texts(folder: Path, texts: Sequence[Sample]) -> Iterator[Feed]:
    encoded = _encode(folder, texts)
    lengths = encoded["attention_mask"].sum(1)
    # Texts of similar length stand together, so that there is little padding.
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(texts), BATCH):
        rows = order[start : start + BATCH]
        yield rows.tolist(), {name: value[rows, : lengths[rows[0]]] for name, value in encoded.items()}


def _halves(opened: "onnxruntime.InferenceSession", path: Path, exact: bool, token_by_token: bool) -> Halves:
    """Return the sessions of an encoder with the two decoders' files beside it, of which the one with a cache
    is opened only where it is run; or of a merged decoder with the encoder beside it.

    Raises InputError where one of the files is not there.
    """
    own = MERGED if path.name.startswith(MERGED) else ENCODER
    config = _beside(path) / "config.json"
    start = _read(config).get("decoder_start_token_id")
    if not isinstance(start, int):
        raise InputError(
            f"{config}: found decoder_start_token_id {start!r}, expected the token that the decoder "
            "begins with"
        )

    def beside(name: str) -> "onnxruntime.InferenceSession":
        return open_session(path.with_name(path.name.replace(own, name, 1)), exact=exact)

    if own == MERGED:
        return Halves(encoder=beside(ENCODER), first=opened, next=opened, start=start)
    later = beside(NEXT) if token_by_token else None
    return Halves(encoder=opened, first=beside(FIRST), next=later, start=start)


def _scored(
    path: Path, run: Callable[[Callable[[str], list[int]]], NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return the outputs of a language model, with the tokenizer that lies beside it."""
    tokenizer = _tokenizer(folder := _beside(path))

    def tokens(text: str) -> list[int]:
        ids: list[int] = tokenizer(text)["input_ids"]
        return ids

    try:
        return run(tokens)
    except InputError:
        raise
    except Exception as error:  # The runtime and the tokenizer raise whatever they like.
        raise InputError(
            f"{path}: ONNX Runtime fails on it with the tokenizer of {folder} ({first_line(error)})"
        ) from None


def _tokenizer(folder: Path) -> Any:  # noqa: ANN401 - the library's classes share no typed call
    """Return the tokenizer in a folder. Raises InputError where there is none."""
    try:
        tokenizer = shared_tokenizer(folder)
    except InputError:
        raise
    except Exception as error:  # The library raises whatever its parsers raise.
        raise InputError(f"{folder}: its config and tokenizer cannot be used ({first_line(error)})") from None
    # The library makes a tokenizer of special tokens alone for a folder without a vocabulary.
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise InputError(
            f"{folder}: its config and tokenizer cannot be used (the tokenizer knows special tokens only)"
        )
    return tokenizer


def _encode(folder: Path, texts: Sequence[Sample]) -> dict[str, NDArray[np.int64]]:
    """Return the inputs of texts and of pairs, int64 [samples, length] by name, padded to the right and cut
    to the folder's own limit. Where texts are padded to that, what pads is a token as the others.
    """
    given = [given_to_tokenizer(sample) for sample in texts]
    tokenizer = _tokenizer(folder)
    try:
        config = _read(folder / "config.json")
        limits = (
            _read(folder / "sentence_bert_config.json").get("max_seq_length"),
            config.get("text_config", config).get("max_position_embeddings"),
        )
        length = min(limit for limit in (*limits, tokenizer.model_max_length) if limit)
        padded = config.get("model_type") in PADDED
        lower = bool(_read(folder / "sentence_bert_config.json").get("do_lower_case"))
        encoded = tokenizer(
            [_lowered(text) for text in given] if lower else given,
            padding="max_length" if padded else True,
            padding_side="right",
            truncation=True,
            max_length=length,
            return_tensors="np",
            return_token_type_ids=True,
        )
    except Exception as error:  # The library raises whatever its parsers raise.
        raise InputError(f"{folder}: its config and tokenizer cannot be used ({first_line(error)})") from None
    found = {name: value.astype(np.int64) for name, value in encoded.items()}
    return found | ({"attention_mask": np.ones_like(found["input_ids"])} if padded else {})


def _lowered(text: str | tuple[str, str]) -> str | tuple[str, str]:
    return text.lower() if isinstance(text, str) else (text[0].lower(), text[1].lower())


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return content
