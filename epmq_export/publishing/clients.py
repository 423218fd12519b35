"""The calls by which clients open the files, as they lie in a repository of the hub (docs/clients.md)."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePath
from typing import Any

from epmq_export.publishing.report import About
from epmq_export.tensors.modules import pooling_option

REPO = "USER/REPO"
Call = tuple[str, str, str]
"""A client, the language of its call, and the call."""


RUNTIMES = {"transformers.js": ("transformers.js", "onnxruntime-web", "onnxruntime-webgpu")}
"""The runtimes of the verification that run a client, where they are others than the one of its name."""


def calls(about: About, files: Mapping[str, str], folder: Mapping[str, Any]) -> Iterator[Call]:
    """Yield the calls of the clients that read what a model is for in these files.

    `files` are the paths of the files that are run, by format; `folder` is the content of the JSON files
    beside the ONNX models, by name.
    """
    purpose = about.pipeline_tag
    if "gguf" in files and purpose in ("sentence-similarity", "text-classification", "text-generation"):
        more = "" if purpose == "text-generation" else " --embeddings"
        yield "llama.cpp", "sh", f"llama-server -hf {REPO}{more}"
    if "onnx" not in files:
        return
    path = PurePath("onnx", PurePath(files["onnx"]).name)
    yield (
        "onnxruntime",
        "python",
        f'import onnxruntime\n\nsession = onnxruntime.InferenceSession("{path}")',
    )
    if purpose == "sentence-similarity" and "modules.json" in folder:
        yield (
            "sentence-transformers",
            "python",
            "from sentence_transformers import SentenceTransformer\n\n"
            f'model = SentenceTransformer("{REPO}", backend="onnx")\n'
            'embeddings = model.encode(["a text", "another one"])',
        )
    if purpose in _TASKS:
        yield "transformers.js", "js", _in_javascript(purpose, folder)
    if purpose in _CLASSIFIERS:
        yield "transformers.js", "js", _CLASSIFIERS[purpose]
    if "genai_config.json" in folder:
        yield (
            "onnxruntime-genai",
            "python",
            "import onnxruntime_genai\n\nmodel = onnxruntime_genai.Model('directory of this repository')",
        )


_TASKS = {
    "sentence-similarity": ("feature-extraction", ""),
    "text-generation": ("text-generation", '"A text that goes on"'),
    "text2text-generation": ("text2text-generation", '"A question"'),
    "image-feature-extraction": ("image-feature-extraction", '"picture.jpg"'),
    "zero-shot-image-classification": (
        "zero-shot-image-classification",
        '"picture.jpg", ["a cat", "a dog"]',
    ),
}
"""transformers.js's task for what a model is for, and what is asked of it."""


_CLASSIFIERS = {
    "text-classification": (
        'import { AutoModel, AutoTokenizer } from "@huggingface/transformers";\n\n'
        f'const tokenizer = await AutoTokenizer.from_pretrained("{REPO}");\n'
        f'const model = await AutoModel.from_pretrained("{REPO}");\n'
        'const scores = await model(tokenizer("a text")); // logits_TASK; classifiers.json names the classes'
    ),
    "image-classification": (
        'import { AutoModel, AutoProcessor, RawImage } from "@huggingface/transformers";\n\n'
        f'const processor = await AutoProcessor.from_pretrained("{REPO}");\n'
        f'const model = await AutoModel.from_pretrained("{REPO}");\n'
        'const picture = await RawImage.read("picture.jpg");\n'
        "// logits_TASK; classifiers.json names the classes\n"
        "const scores = await model(await processor(picture));"
    ),
}
"""transformers.js's calls for a model with several classifiers, which no pipeline knows, by its purpose."""


def _in_javascript(purpose: str, folder: Mapping[str, Any]) -> str:
    """Return the call of transformers.js. That of a sentence encoder says how to pool."""
    task, asked = _TASKS[purpose]
    if purpose == "sentence-similarity":
        modules = [str(module.get("type")) for module in folder.get("modules.json") or []]
        pooling = pooling_option(folder.get("1_Pooling/config.json") or {})
        unit = any(name.endswith("Normalize") for name in modules)
        normal = "true" if unit else "false"
        asked = f'["a text", "another one"], {{ pooling: "{pooling}", normalize: {normal} }}'
    return (
        'import { pipeline } from "@huggingface/transformers";\n\n'
        f'const model = await pipeline("{task}", "{REPO}");\n'
        f"const output = await model({asked});"
    )


def lengths(folder: Mapping[str, Any], clients: Collection[str]) -> str:
    """Return a sentence on the lengths at which some clients cut a text, or an empty text where they agree or
    nothing says so.
    """
    told = {
        "sentence-transformers": (folder.get("sentence_bert_config.json") or {}).get("max_seq_length"),
        "transformers.js": (folder.get("tokenizer_config.json") or {}).get("model_max_length"),
        "llama.cpp": (folder.get("config.json") or {}).get("max_position_embeddings"),
    }
    # Tokenizers without a limit of their own say one of 10^30.
    known = {
        name: value
        for name, value in told.items()
        if name in clients and isinstance(value, int) and value < 1 << 30
    }
    if len(set(known.values())) < 2:
        return ""
    each = ", ".join(f"{name} after {value}" for name, value in known.items())
    return (
        f"Clients cut longer texts at different lengths, in tokens: {each}. Beyond the shortest they differ."
    )
