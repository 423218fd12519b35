"""How BERT is laid out in GGUF, as llama.cpp reads its architecture `bert`."""

from collections.abc import Mapping
from pathlib import Path

from transformers import BertConfig, PreTrainedTokenizerFast

from converters.bert.sentence import Sentence
from converters.tokenizers.wordpiece import wordpiece
from epmq_export.errors import InputError
from epmq_export.models.specs import GgufSpec, Metadata

# llama.cpp's numbers of what it pools.
_POOLING: Mapping[tuple[str, ...], int] = {("mean",): 1, ("cls",): 2, ("lasttoken",): 3}
_EMBEDDINGS = {
    "word_embeddings": "token_embd",
    "position_embeddings": "position_embd",
    "token_type_embeddings": "token_types",
}
_NORM = "token_embd_norm"
_MODULES = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}


def gguf_spec(
    config: BertConfig, sentence: Sentence, tokenizer: PreTrainedTokenizerFast, directory: Path
) -> GgufSpec:
    """Return the layout. Raises InputError where llama.cpp would tokenise otherwise than the tokenizer does,
    and for pooling and modules that it has not.
    """
    if sentence.dense:
        raise InputError(
            f"{directory}: found the module {sentence.dense[0].place} behind the pooling, expected none: "
            "llama.cpp has no Dense for BERT; leave gguf out of export.formats"
        )
    modes = sentence.modes
    if modes not in _POOLING:
        raise InputError(
            f"{directory}: found the pooling {' + '.join(modes)}, expected mean, cls or lasttoken, all that "
            "llama.cpp has; leave gguf out of export.formats"
        )
    metadata: Metadata = {
        "bert.block_count": config.num_hidden_layers,
        "bert.context_length": config.max_position_embeddings,
        "bert.embedding_length": config.hidden_size,
        "bert.feed_forward_length": config.intermediate_size,
        "bert.attention.head_count": config.num_attention_heads,
        "bert.attention.layer_norm_epsilon": config.layer_norm_eps,
        "bert.attention.causal": False,
        "bert.pooling_type": _POOLING[modes],
        "tokenizer.ggml.token_type_count": config.type_vocab_size,
        **wordpiece(tokenizer, directory, config.vocab_size),
    }
    return GgufSpec("bert", metadata, _names(config.num_hidden_layers))


def _names(layers: int) -> dict[str, str]:
    """Return the file's names of tensors by canonical ones, in the order of the file."""
    names = {f"embeddings.{here}.weight": f"{there}.weight" for here, there in _EMBEDDINGS.items()}
    modules = {"embeddings.LayerNorm": _NORM}
    for layer in range(layers):
        modules |= {
            f"encoder.layer.{layer}.{here}": f"blk.{layer}.{there}" for here, there in _MODULES.items()
        }
    return names | {
        f"{here}.{kind}": f"{there}.{kind}" for here, there in modules.items() for kind in ("weight", "bias")
    }
