"""How ModernBERT is laid out in GGUF, as llama.cpp reads its architecture `modern-bert`."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from converters.bert.gguf import pooling_type
from converters.bert.sentence import Sentence
from converters.modernbert.blocks import SLIDING
from converters.shared.config import Config
from converters.tokenizers.for_llama_cpp import gguf_tokenizer
from epmq_export.errors import InputError
from epmq_export.models.specs import GgufSpec, Metadata

_ARCHITECTURE = "modern-bert"
_BIASES = ("norm_bias", "attention_bias", "mlp_bias")
_MODULES = {
    "attn_norm": "attn_norm",
    "attn.Wqkv": "attn_qkv",
    "attn.Wo": "attn_output",
    "mlp_norm": "ffn_norm",
    "mlp.Wi": "ffn_up",
    "mlp.Wo": "ffn_down",
}


def gguf_spec(
    config: Config, sentence: Sentence, tokenizer: PreTrainedTokenizerFast, directory: Path
) -> GgufSpec:
    """Return the layout. Raises InputError for biases, for layers whose attention alternates otherwise than
    llama.cpp's, for pooling that it has not, and where it would tokenise otherwise than the tokenizer does.
    """
    if biases := [key for key in _BIASES if getattr(config, key)]:
        raise InputError(
            f"{directory / 'config.json'}: found {biases[0]} true, expected false: llama.cpp's ModernBERT "
            "has no biases; leave gguf out of export.formats"
        )
    found: Metadata = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.layer_norm_epsilon": config.norm_eps,
        "attention.causal": False,
        "pooling_type": pooling_type(sentence, directory),
        "rope.freq_base": float(config.rope_parameters["full_attention"]["rope_theta"]),
        **_windows(config, directory),
    }
    metadata = {f"{_ARCHITECTURE}.{key}": value for key, value in found.items()}
    names = {"embeddings.tok_embeddings": "token_embd", "embeddings.norm": "token_embd_norm"}
    for layer in range(config.num_hidden_layers):
        names |= {
            f"layers.{layer}.{here}": f"blk.{layer}.{there}"
            for here, there in _MODULES.items()
            if layer > 0 or here != "attn_norm"
        }
    names |= {"final_norm": "output_norm"}
    return GgufSpec(
        _ARCHITECTURE,
        {**metadata, **gguf_tokenizer(tokenizer, directory, config.vocab_size)},
        {f"{here}.weight": f"{there}.weight" for here, there in names.items()},
    )


def _windows(config: Config, directory: Path) -> Metadata:
    """Return what says which tokens the layers look at: all of them in every nth layer from the first on, and
    in the others those that are at most half a window away.
    """
    kinds, layers = list(config.layer_types), range(config.num_hidden_layers)
    if SLIDING not in kinds:
        return {}
    local = [kind == SLIDING for kind in kinds]
    every = next((n for n in range(1, len(kinds) + 1) if local == [i % n != 0 for i in layers]), None)
    if every is None:
        raise InputError(
            f"{directory / 'config.json'}: found layer_types {', '.join(kinds)}, expected full_attention in "
            "every nth layer from the first on: llama.cpp has no other; leave gguf out of export.formats"
        )
    return {
        "attention.sliding_window": config.local_attention,
        "attention.sliding_window_pattern": every,
        "rope.freq_base_swa": float(config.rope_parameters[SLIDING]["rope_theta"]),
    }
