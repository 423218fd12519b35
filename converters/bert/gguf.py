"""How BERT and its like are laid out in GGUF, as llama.cpp reads its architecture `bert`."""

from collections.abc import Mapping
from pathlib import Path

from tokenizers import models
from transformers import PreTrainedTokenizerFast

from converters.bert.kinds import Kind
from converters.bert.sentence import Sentence
from converters.shared.config import Config
from converters.tokenizers.for_llama_cpp import gguf_tokenizer
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
_POSITIONS = "embeddings.position_embeddings.weight"
# The modules of a layer, in the order in which a kind names its own.
_MODULES = (
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "attn_output_norm",
    "ffn_up",
    "ffn_down",
    "layer_output_norm",
)
# What DistilBERT's norms have in the library's code.
_EPS = 1e-12


def gguf_spec(
    kind: Kind,
    config: Config,
    sentence: Sentence,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
) -> GgufSpec:
    """Return the layout. Raises InputError where llama.cpp would tokenise otherwise than the tokenizer does,
    and for pooling and modules that it has not.
    """
    pooling = pooling_type(sentence, directory)
    begin = kind.begin(config)
    metadata: Metadata = {
        "bert.block_count": config.num_hidden_layers,
        "bert.context_length": config.max_position_embeddings - begin,
        "bert.embedding_length": config.hidden_size,
        "bert.feed_forward_length": getattr(config, kind.feed_forward),
        "bert.attention.head_count": config.num_attention_heads,
        "bert.attention.layer_norm_epsilon": getattr(config, "layer_norm_eps", _EPS),
        "bert.attention.causal": False,
        "bert.pooling_type": pooling,
        "tokenizer.ggml.token_type_count": getattr(config, "type_vocab_size", 1),
        **_vocabulary(tokenizer, directory, config.vocab_size),
    }
    begins = {_POSITIONS: begin} if begin else {}
    return GgufSpec(
        "bert",
        metadata,
        _names(kind, config.num_hidden_layers),
        begins=begins,
    )


def pooling_type(sentence: Sentence, directory: Path) -> int:
    """Return llama.cpp's number of a pooling. Raises InputError for one that it has not, and for a module
    behind it.
    """
    if sentence.dense:
        raise InputError(
            f"{directory}: found the module {sentence.dense[0].place} behind the pooling, expected none: "
            "llama.cpp has no Dense for BERT; leave gguf out of export.formats"
        )
    if sentence.modes not in _POOLING:
        raise InputError(
            f"{directory}: found the pooling {' + '.join(sentence.modes)}, expected mean, cls or lasttoken, "
            "all that llama.cpp has; leave gguf out of export.formats"
        )
    return _POOLING[sentence.modes]


def _vocabulary(tokenizer: PreTrainedTokenizerFast, directory: Path, rows: int) -> Metadata:
    if isinstance(tokenizer.backend_tokenizer.model, models.WordPiece):
        return wordpiece(tokenizer, directory, rows)
    return gguf_tokenizer(tokenizer, directory, rows)


def _names(kind: Kind, layers: int) -> dict[str, str]:
    """Return the file's names of tensors by canonical ones, in the order of the file."""
    names = {
        f"embeddings.{here}.weight": f"{there}.weight"
        for here, there in _EMBEDDINGS.items()
        if kind.types or here != "token_type_embeddings"
    }
    modules = {"embeddings.LayerNorm": _NORM}
    for layer in range(layers):
        modules |= {
            f"{kind.stack}.{layer}.{here}": f"blk.{layer}.{there}"
            for here, there in zip(kind.modules, _MODULES, strict=True)
        }
    return names | {
        f"{here}.{part}": f"{there}.{part}" for here, there in modules.items() for part in ("weight", "bias")
    }
