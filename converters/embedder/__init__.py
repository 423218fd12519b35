"""Decoders that embed texts: a language model's layers behind sentence-transformers' modules."""

from converters.shared.about import About

ABOUT = (
    About(
        models="Qwen3-Embedding",
        kinds=("qwen3",),
        modules=True,
        calibrated="linears and norms of the layers, the last norm",
        kept="token embeddings, and norms of queries and keys",
        output="the pooled sentence, of length 1 where the model makes it so",
    ),
    About(
        models="EmbeddingGemma",
        kinds=("gemma3_text",),
        modules=True,
        kept="token embeddings, norms of queries and keys, and the Dense modules",
    ),
)
