"""Small models with random weights for both to merge, as transformers and peft write them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

WORDS = tuple(f"word{number}" for number in range(94))
SPECIALS = ("<unk>", "<s>")
SIZES: dict[str, Any] = {"vocab_size": 96}


def llama(layers: int = 4, tied: bool = False) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=tied,
            **SIZES,
        )
    )


def bert() -> BertModel:
    return BertModel(
        BertConfig(
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=40,
            **SIZES,
        )
    )


def t5() -> T5ForConditionalGeneration:
    config: Any = T5Config  # its own types are incomplete
    return T5ForConditionalGeneration(
        config(
            d_model=64,
            d_kv=16,
            d_ff=160,
            num_layers=4,
            num_heads=4,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            **SIZES,
        )
    )


def write_models(place: Path) -> None:
    """Write `FAMILY/base`, `FAMILY/a`, `b` and `c` for llama, llama-bf16, bert and t5; `llama/lora` on
    llama's base; `llama/deep` of six layers; `llama/more`, whose vocabulary has two words more and another
    order.
    """
    families: dict[str, tuple[Callable[[], Any], torch.dtype]] = {
        "llama": (llama, torch.float32),
        "llama-bf16": (llama, torch.bfloat16),
        "bert": (bert, torch.float32),
        "t5": (t5, torch.float32),
    }
    for name, (build, dtype) in families.items():
        torch.manual_seed(0)
        model = build().to(dtype)
        _noise(model, 0.02)  # norms and biases are no longer all ones and zeros
        _write(model, place / name / "base", WORDS)
        for seed, expert in enumerate(("a", "b", "c"), 1):
            torch.manual_seed(seed)
            tuned = type(model).from_pretrained(place / name / "base", dtype=dtype)
            _noise(tuned, 0.01)
            _write(tuned, place / name / expert, WORDS)
    torch.manual_seed(5)
    deep = llama(layers=6)
    _noise(deep, 0.02)
    _write(deep, place / "llama" / "deep", WORDS)
    more = LlamaForCausalLM.from_pretrained(place / "llama" / "a")
    more.resize_token_embeddings(98, mean_resizing=False)
    _noise(more, 0.01)
    _write(more, place / "llama" / "more", (*WORDS[::-1], "new1", "new2"))
    adapted = get_peft_model(
        LlamaForCausalLM.from_pretrained(place / "llama" / "base"),
        LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]),
    )
    for parameter_name, parameter in adapted.named_parameters():
        if "lora_" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.05)
    adapted.save_pretrained(str(place / "llama" / "lora"))


def _noise(model: torch.nn.Module, scale: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)


def _write(model: Any, directory: Path, words: Sequence[str]) -> None:  # noqa: ANN401
    model.save_pretrained(directory)
    tokenizer = Tokenizer(
        WordLevel({token: row for row, token in enumerate((*SPECIALS, *words))}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = WhitespaceSplit()
    wrapped: Any = PreTrainedTokenizerFast  # its own types are incomplete
    wrapped(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>").save_pretrained(directory)
