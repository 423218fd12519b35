"""Decoder language models whose layers are like Llama's."""

from converters.shared.about import About

ABOUT = (
    About(
        models="Llama 2 and 3, SmolLM, TinyLlama",
        kinds=("llama",),
        calibrated="linears and norms of the layers, the last norm",
        kept="embeddings and head",
        output="scores of the next token",
    ),
    About(models="Mistral", kinds=("mistral",)),
    About(
        models="Qwen2, Qwen2.5, Qwen3 (dense)",
        kinds=("qwen2", "qwen3"),
        kept="the same, and norms of queries and keys",
    ),
    About(models="Gemma 3 (texts)", kinds=("gemma3_text",)),
    About(models="Gemma 2", kinds=("gemma2",), kept="embeddings and head"),
    About(models="SmolLM3", kinds=("smollm3",), kept="embeddings and head"),
    About(models="Granite (dense: 3.0 to 3.3)", kinds=("granite",), kept="embeddings and head"),
    About(models="OLMo 2", kinds=("olmo2",), kept="embeddings and head, and norms of queries and keys"),
    About(models="Phi-3 and Phi-3.5 (texts)", kinds=("phi3",), kept="embeddings and head"),
    About(
        models="Qwen3 (mixtures of experts), OLMoE",
        kinds=("qwen3_moe", "olmoe"),
        calibrated="linears of the attention and of each expert, norms of the layers, the last norm",
        kept="embeddings and head, norms of queries and keys, and the routers",
    ),
    About(models="Mixtral", kinds=("mixtral",), kept="embeddings and head, and the routers"),
)
