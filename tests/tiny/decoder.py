"""Decoder language models with random weights, and a byte-level tokenizer that is trained on a few lines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

VOCABULARY, WIDTH, HEADS, HEAD = 320, 64, 4, 16
LINES = (
    "the cat sat on the mat .",
    "a dog ran in the park .",
    "it is good , very good !",
    "it is bad , so bad ...",
    "what is that ? 12 of 345 things",
)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
# By name: the classes, and what the config says besides the sizes.
KINDS: Mapping[str, tuple[type[PreTrainedConfig], type[PreTrainedModel], dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": LLAMA3, "attention_bias": True}),
    "llama, tied": (LlamaConfig, LlamaForCausalLM, {"rope_parameters": LINEAR, "tie_word_embeddings": True}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None, "head_dim": 32}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 32, "tie_word_embeddings": True}),
    # Two of four experts for each token.
    "qwen3_moe": (
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
        {
            "head_dim": 32,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
        },
    ),
    "olmoe": (
        OlmoeConfig,
        OlmoeForCausalLM,
        {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32, "num_key_value_heads": HEADS},
    ),
    # Its checkpoints have other names than the library's modules.
    "mixtral": (
        MixtralConfig,
        MixtralForCausalLM,
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "intermediate_size": 64,
            "sliding_window": None,
            "head_dim": 32,
        },
    ),
    # Bounds that random scores come close to; windows shorter than most texts.
    "gemma2": (
        Gemma2Config,
        Gemma2ForCausalLM,
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "sliding_window": 8,
            "attn_logit_softcapping": 0.5,
            "final_logit_softcapping": 1.5,
            "rope_parameters": LINEAR,
        },
    ),
    # Six layers, that one may see everything; windows shorter than most texts.
    "gemma3": (
        Gemma3TextConfig,
        Gemma3ForCausalLM,
        {"num_hidden_layers": 6, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8},
    ),
    "granite": (
        GraniteConfig,
        GraniteForCausalLM,
        {
            "embedding_multiplier": 6.0,
            "attention_multiplier": 0.125,
            "residual_multiplier": 0.5,
            "logits_scaling": 4.0,
            "tie_word_embeddings": True,
        },
    ),
    # Nothing is normalised before the attention: an eps that is small beside what small weights make.
    "olmo2": (Olmo2Config, Olmo2ForCausalLM, {"rms_norm_eps": 1e-6}),
    # A part of each head is rotated, as in texts that are no longer than those of a first training.
    "phi3": (
        Phi3Config,
        Phi3ForCausalLM,
        {
            "sliding_window": None,
            "max_position_embeddings": 2048,
            "original_max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.75,
                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 2.0],
                "long_factor": [1.0, 1.5, 2.0, 3.0, 5.0, 8.0],
            },
        },
    ),
    # Four layers, the last of which rotates nothing.
    "smollm3": (SmolLM3Config, SmolLM3ForCausalLM, {"num_hidden_layers": 4}),
}


def tokenizer(begins: bool = False) -> PreTrainedTokenizerFast:
    """Train GPT-2's kind of tokenizer; with `begins`, it begins each text with <s>."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 4, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    learner.train_from_iterator(LINES * 3, trainer)
    if begins:
        learner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=learner, eos_token="<|endoftext|>", bos_token="<s>", pad_token="<|endoftext|>"
    )


def model(kind: str, *, seed: int = 0, **settings: Any) -> PreTrainedModel:
    config, architecture, own = KINDS[kind]
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "max_position_embeddings": 512,
    }
    heads = {
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 0,
    }
    torch.manual_seed(seed)
    made: PreTrainedModel = architecture(config(**{**sizes, **heads, **own, **settings}))
    with torch.no_grad():
        for parameter in made.parameters():
            # Scores that are far from even: a difference shows.
            parameter.copy_(
                parameter + 0.3 * torch.randn_like(parameter) if parameter.ndim == 1 else 3 * parameter
            )
    return made.eval()


def write(directory: Path, kind: str, *, seed: int = 0, begins: bool = False, **settings: Any) -> Path:
    model(kind, seed=seed, **settings).save_pretrained(directory)
    tokenizer(begins).save_pretrained(directory)
    return directory


def write_expert(directory: Path, base: Path, kind: str, seed: int, size: float = 0.1) -> Path:
    """Write the base with noise on its linears, a share of their own size; on those of a mixture, too."""
    made: Any = KINDS[kind][1].from_pretrained(base)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "proj" in name and parameter.ndim > 1:
                parameter += size * parameter.std() * torch.randn(parameter.shape, generator=generator)
    made.save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory
