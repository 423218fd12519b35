"""CLIP in GGUF, as clip.cpp lays it out: both towers in one file.

clip.cpp's names for the two halves of a feed-forward part are the reverse of llama.cpp's: fc1 is ffn_down,
fc2 is ffn_up. It reads the scale of texts from no file, so logit_scale is left out. The merges of the
tokenizer are no key of clip.cpp, which splits words greedily. They are written so that a file holds
everything that its texts need.
"""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast
from transformers.image_utils import PILImageResampling

from converters.clip.blocks import OLD_END
from converters.shared.config import Config
from epmq_export.errors import InputError
from epmq_export.models.processor import CONFIG
from epmq_export.models.specs import GgufSpec, Metadata

ARCHITECTURE = "clip"
# The grids that clip.cpp's ggml can decode. It is older than IQ4_NL and compiled without K-quants.
GRIDS = frozenset({"Q4_0", "Q4_1", "Q8_0"})
# The layers of text and image tower that clip.cpp knows. It ends the process on a file with others.
LAYERS = ((12, 12), (12, 24), (24, 32))
_MODULES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "mlp.fc1": "ffn_down",
    "mlp.fc2": "ffn_up",
}


def gguf_spec(
    text: Config,
    vision: Config,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    processor: Any,  # noqa: ANN401
) -> GgufSpec:
    """Return the layout; InputError for a model that clip.cpp cannot load."""
    where = directory / "config.json"
    if (text.num_hidden_layers, vision.num_hidden_layers) not in LAYERS:
        known = ", ".join(f"{texts} + {images}" for texts, images in LAYERS)
        raise InputError(
            f"{where}: found {text.num_hidden_layers} + {vision.num_hidden_layers} layers, expected {known} "
            "(texts + images), which clip.cpp reads; "
            "leave gguf out of export.formats"
        )
    if text.hidden_act != vision.hidden_act:
        raise InputError(
            f"{where}: hidden_act is {text.hidden_act!r} for texts and {vision.hidden_act!r} for images, "
            "expected one for both in GGUF"
        )
    _require_end(text, tokenizer, where)
    _require_processor(processor, vision.image_size, directory)
    metadata: Metadata = {
        "general.description": "two-tower CLIP model",
        "clip.has_text_encoder": True,
        "clip.has_vision_encoder": True,
        "clip.use_gelu": vision.hidden_act == "gelu",
        "clip.text.context_length": text.max_position_embeddings,
        **_tower("text", text, vision.projection_dim),
        **_tower("vision", vision, vision.projection_dim),
        "clip.vision.image_size": vision.image_size,
        "clip.vision.patch_size": vision.patch_size,
        "clip.vision.image_mean": [float(value) for value in processor.image_mean],
        "clip.vision.image_std": [float(value) for value in processor.image_std],
        **_tokens(tokenizer, directory, text.vocab_size),
    }
    return GgufSpec(
        architecture=ARCHITECTURE,
        metadata=metadata,
        names=_names(text.num_hidden_layers, vision.num_hidden_layers),
        left_out=frozenset({"logit_scale"}),
    )


def _require_end(text: Config, tokenizer: PreTrainedTokenizerFast, where: Path) -> None:
    """Raise InputError where a text is not read at the last of its tokens, as clip.cpp reads it."""
    last: int = tokenizer.eos_token_id
    found = text.eos_token_id
    if found != last and not (found == OLD_END and last == text.vocab_size - 1):
        raise InputError(
            f"{where}: found text_config.eos_token_id {found}, expected {last}, which its tokenizer ends "
            "texts with and clip.cpp reads them at; leave gguf out of export.formats"
        )


def _require_processor(processor: Any, side: int, directory: Path) -> None:  # noqa: ANN401
    """Raise InputError for a processor that the file cannot describe. It holds a side, means and deviations,
    and the rest is CLIP's own.
    """
    expected = {
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": PILImageResampling.BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
    }
    for key, value in expected.items():
        found = getattr(processor, key, None)
        found = (
            {part: number for part, number in dict(found).items() if number is not None}
            if isinstance(value, dict) and found is not None
            else found
        )
        if found != value:
            raise InputError(
                f"{directory / CONFIG}: {key} is {found!r}, expected {value!r}, all that GGUF can say; "
                "leave gguf out of export.formats"
            )


def _tower(name: str, config: Config, projection: int) -> Metadata:
    return {
        f"clip.{name}.embedding_length": config.hidden_size,
        f"clip.{name}.feed_forward_length": config.intermediate_size,
        f"clip.{name}.projection_dim": projection,
        f"clip.{name}.attention.head_count": config.num_attention_heads,
        f"clip.{name}.attention.layer_norm_epsilon": config.layer_norm_eps,
        f"clip.{name}.block_count": config.num_hidden_layers,
    }


def _tokens(tokenizer: PreTrainedTokenizerFast, directory: Path, size: int) -> Metadata:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if [index for _, index in tokens] != list(range(size)):
        raise InputError(
            f"{directory}: the tokenizer has {len(tokens)} tokens, expected the {size} of config.json, "
            "without a gap"
        )
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model.get("merges", [])]
    if not merges:
        raise InputError(f"{directory}: the tokenizer has no merges, expected CLIP's byte-pair encoding")
    return {
        "tokenizer.ggml.tokens": [token for token, _ in tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_token_id,
    }


def _names(text_layers: int, vision_layers: int) -> dict[str, str]:
    names = {
        "text_model.embeddings.token_embedding.weight": "t.token_embd.weight",
        "text_model.embeddings.position_embedding.weight": "t.position_embd.weight",
        "vision_model.embeddings.class_embedding": "v.class_embd",
        "vision_model.embeddings.patch_embedding.weight": "v.patch_embd.weight",
        "vision_model.embeddings.position_embedding.weight": "v.position_embd.weight",
        "text_projection.weight": "text_projection.weight",
        "visual_projection.weight": "visual_projection.weight",
    }
    modules = {
        "text_model.final_layer_norm": "t.post_ln",
        "vision_model.pre_layrnorm": "v.pre_ln",
        "vision_model.post_layernorm": "v.post_ln",
    }
    for tower, short, layers in (("text_model", "t", text_layers), ("vision_model", "v", vision_layers)):
        for layer in range(layers):
            modules |= {
                f"{tower}.encoder.layers.{layer}.{here}": f"{short}.blk.{layer}.{there}"
                for here, there in _MODULES.items()
            }
    return names | {
        f"{here}.{kind}": f"{there}.{kind}" for here, there in modules.items() for kind in ("weight", "bias")
    }
