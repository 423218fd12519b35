"""The keys `general.*`, as llama.cpp's own converter writes them."""

import re
from math import prod
from typing import Any

from gguf import GGML_QUANT_VERSION, Metadata
from gguf.utility import size_label

from epmq_export.models.specs import GgufSpec
from epmq_export.tensors.about import About
from epmq_export.tensors.gguf_file import ALIGNMENT, ALIGNMENT_KEY
from formats.gguf.placement import Layout, file_type
from formats.gguf.types import FILE_TYPES

HUB = "https://huggingface.co"


def common_keys(about: About, spec: GgufSpec, layout: Layout) -> dict[str, Any]:
    """Return the keys that every model has, whatever its family: what it is, what it is called, what it is
    made of. What is not known of it has no key.
    """
    weights = sum(prod(shape) for _, shape in layout.values())
    # The converter reads these parts out of a model's name by the same function.
    _, _, basename, finetune, version, size = Metadata.get_model_id_components(about.name, weights)
    keys = {
        "general.architecture": spec.architecture,
        "general.type": "model",
        "general.name": _name(about.name, spec.called),
        "general.finetune": finetune,
        "general.basename": basename,
        "general.version": version,
        "general.size_label": size or _size_label(layout),
        "general.quantized_by": "epmq-export",
        "general.license": about.license,
        **_base_models(about),
        "general.tags": [about.pipeline_tag] if about.pipeline_tag else None,
        "general.languages": [*about.languages],
        "general.file_type": FILE_TYPES[file_type(layout)],
        "general.quantization_version": GGML_QUANT_VERSION,
        ALIGNMENT_KEY: ALIGNMENT,
    }
    return {key: value for key, value in keys.items() if value not in (None, [])}


def _size_label(layout: Layout) -> str:
    """Return how many weights a model has, of a mixture those with one expert a layer, behind the number of
    its experts.
    """
    experts, each = 0, 0
    for _, shape in layout.values():
        experts = max(experts, shape[0] if len(shape) == 3 else 0)
        each += prod(shape[-2:])
    return str(size_label(sum(prod(shape) for _, shape in layout.values()), each, 0, experts))


def _name(name: str, called: str | None) -> str:
    """Return a model's title, with what it has to hold; without a word by which llama.cpp would take another
    model for a Phi-3.
    """
    title = re.sub("phi-?3", "Phi 3", _title(name), flags=re.IGNORECASE)
    return title if called is None else f"{title} ({called})"


def _title(name: str) -> str:
    """Return a name as people read it: `all-MiniLM-L6-v2` is `All MiniLM L6 v2`."""
    return str(Metadata.id_to_title(name))  # type: ignore[no-untyped-call]


def _base_models(about: About) -> dict[str, Any]:
    """Return the keys of the models that this one is made of."""
    keys: dict[str, Any] = {"general.base_model.count": len(about.base_models)} if about.base_models else {}
    for number, model in enumerate(about.base_models):
        organization, _, name = model.rpartition("/")
        keys[f"general.base_model.{number}.name"] = _title(name)
        if organization:
            keys[f"general.base_model.{number}.organization"] = _title(organization)
            keys[f"general.base_model.{number}.repo_url"] = f"{HUB}/{model}"
    return keys
