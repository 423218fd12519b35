"""The layout of T5 in GGUF, as llama.cpp reads it."""

from pathlib import Path

from gguf import MODEL_ARCH, get_tensor_name_map
from transformers import PreTrainedTokenizerFast

from converters.shared.config import Config
from converters.tokenizers.for_llama_cpp import gguf_tokenizer
from epmq_export.errors import InputError
from epmq_export.models.specs import GgufSpec, Metadata

ARCHITECTURE = "t5"
POSITIONS = 512


def gguf_spec(config: Config, tied: bool, tokenizer: PreTrainedTokenizerFast, directory: Path) -> GgufSpec:
    """Return the layout; InputError where the decoder is the deeper one: llama.cpp makes room for as many
    layers as the encoder has.

    A head that is the embeddings has no tensor of its own in the file. llama.cpp does not divide the input of
    such a head by the root of the width. The norm before it does so instead, which costs neither bytes nor
    another rounding of the embeddings.
    """
    if config.num_decoder_layers > config.num_layers:
        path, depths = (
            directory / "config.json",
            f"{config.num_decoder_layers} above num_layers {config.num_layers}",
        )
        raise InputError(
            f"{path}: found num_decoder_layers {depths}, expected no more decoder than encoder layers: "
            "llama.cpp has no room for them"
        )
    keys: Metadata = {
        "block_count": config.num_layers,
        "decoder_block_count": config.num_decoder_layers,
        "context_length": getattr(config, "n_positions", None) or POSITIONS,
        "embedding_length": config.d_model,
        "feed_forward_length": config.d_ff,
        "attention.head_count": config.num_heads,
        "attention.key_length": config.d_kv,
        "attention.value_length": config.d_kv,
        "attention.layer_norm_epsilon": float(config.layer_norm_epsilon),
        "attention.layer_norm_rms_epsilon": float(config.layer_norm_epsilon),
        "attention.relative_buckets_count": config.relative_attention_num_buckets,
        "decoder_start_token_id": config.decoder_start_token_id,
        "vocab_size": config.vocab_size,
    }
    metadata = {
        **{f"{ARCHITECTURE}.{key}": value for key, value in keys.items()},
        **gguf_tokenizer(tokenizer, directory, config.vocab_size),
    }
    factors = {"decoder.final_layer_norm.weight": config.d_model**-0.5} if tied else {}
    return GgufSpec(ARCHITECTURE, metadata, _names(config, tied), factors=factors)


def _names(config: Config, tied: bool) -> dict[str, str]:
    """Return canonical names to the file's, by gguf's own map."""
    known = get_tensor_name_map(MODEL_ARCH.T5, max(config.num_layers, config.num_decoder_layers))
    feed_forward = ("wi_0", "wi_1", "wo") if config.is_gated_act else ("wi", "wo")
    paths = ["shared"]
    for stack, depth in (("encoder", config.num_layers), ("decoder", config.num_decoder_layers)):
        parts = ["SelfAttention", "EncDecAttention"] if stack == "decoder" else ["SelfAttention"]
        for layer in range(depth):
            for i, part in enumerate(parts):
                linears = [f"{part}.{which}" for which in "qkvo"]
                table = [f"{part}.relative_attention_bias"] if layer == i == 0 else []
                paths += [
                    f"{stack}.block.{layer}.layer.{i}.{path}" for path in ("layer_norm", *linears, *table)
                ]
            paths += [
                f"{stack}.block.{layer}.layer.{len(parts)}.{path}"
                for path in ("layer_norm", *(f"DenseReluDense.{which}" for which in feed_forward))
            ]
        paths.append(f"{stack}.final_layer_norm")
    if not tied:
        paths.append("lm_head")
    names = {}
    for path in paths:
        found = known.get_name(path)
        assert found is not None, path  # gguf knows every tensor of its own architectures.
        names[f"{path}.weight"] = f"{found}.weight"
    return names
