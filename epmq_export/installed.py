"""Make the families, formats and runtimes of this installation: the one place that knows them all.

This is the composition root: it alone imports converters and formats, and the pipeline takes from it what it
hands on. Each is imported when it is first asked for, so that a command pays only for what it uses.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from epmq_export.models.format import Format
    from epmq_export.models.runtime import Runtime
    from epmq_export.pipeline.registry import Registry
    from epmq_export.tensors.description import Description


def _gguf() -> "Format":
    from formats.gguf.format import Gguf

    return Gguf()


def _onnx() -> "Format":
    from formats.onnx.format import OnnxQdq

    return OnnxQdq()


def _safetensors() -> "Format":
    from formats.safetensors.format import Safetensors

    return Safetensors()


def _llama_cpp() -> "Runtime":
    from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp

    return LlamaCpp()


def _clip_cpp() -> "Runtime":
    from epmq_export.verification.runtimes.clip_cpp.runtime import ClipCpp

    return ClipCpp()


def _onnxruntime() -> "Runtime":
    from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime

    return OnnxRuntime()


def _sentence_transformers() -> "Runtime":
    from epmq_export.verification.runtimes.sentence_transformers.runtime import SentenceTransformers

    return SentenceTransformers()


def _transformers_js() -> "Runtime":
    from epmq_export.verification.runtimes.transformers_js.runtime import TransformersJs

    return TransformersJs()


def _onnxruntime_web() -> "Runtime":
    from epmq_export.verification.runtimes.onnxruntime_web.runtime import OnnxRuntimeWeb

    return OnnxRuntimeWeb()


def _onnxruntime_webgpu() -> "Runtime":
    from epmq_export.verification.runtimes.onnxruntime_web.runtime import OnnxRuntimeWeb

    return OnnxRuntimeWeb("webgpu")


def _onnxruntime_genai() -> "Runtime":
    from epmq_export.verification.runtimes.onnxruntime_genai.runtime import OnnxRuntimeGenai

    return OnnxRuntimeGenai()


def _torch() -> "Runtime":
    from converters import open_family
    from epmq_export.verification.runtimes.torch.runtime import Torch

    return Torch(open_family)


def _embedder_of(file: Path) -> str | None:
    """Return the name of the runtime that embeds texts by a file alone, or None where it needs a family."""
    from epmq_export.verification.runtimes.llama_cpp.runtime import embeds

    return "llama.cpp" if embeds(file) else None


_FORMATS = {"gguf": _gguf, "onnx": _onnx, "safetensors": _safetensors}
_RUNTIMES = {
    "llama.cpp": _llama_cpp,
    "clip.cpp": _clip_cpp,
    "onnxruntime": _onnxruntime,
    "torch": _torch,
    "sentence-transformers": _sentence_transformers,
    "transformers.js": _transformers_js,
    "onnxruntime-web": _onnxruntime_web,
    "onnxruntime-webgpu": _onnxruntime_webgpu,
    "onnxruntime-genai": _onnxruntime_genai,
}


@cache
def registry() -> "Registry":
    """Return the families, formats and runtimes of this installation."""
    from converters import described_in, frozen, naming, open_family, open_gguf, require_same_settings
    from epmq_export.pipeline.registry import OnDemand, Registry

    return Registry(
        open_family=open_family,
        frozen=frozen,
        require_same_settings=require_same_settings,
        open_gguf=open_gguf,
        naming_of=naming,
        described_in=described_in,
        embedder_of=_embedder_of,
        formats=OnDemand(_FORMATS),
        runtimes=OnDemand(_RUNTIMES),
    )


def described(path: Path) -> "Description":
    """Return the metadata and tensors of a model in any format that is read; InputError where it is none."""
    from formats.inspect import describe

    return describe(path)
