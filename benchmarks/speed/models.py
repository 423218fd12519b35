"""Language models of given shapes with random weights, and experts of them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor

from epmq_export.grids import GRIDS
from epmq_export.tensors import packed_writer as packing
from epmq_export.tensors.packed import PackedTensor
from epmq_export.tensors.packed_index import PackedIndex

RANK, END = 16, "<end>"


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama."""

    width: int
    inside: int
    layers: int
    heads: int
    keys: int
    vocabulary: int

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield names and shapes; the head is the embeddings."""
        yield "model.embed_tokens.weight", (self.vocabulary, self.width)
        keys = self.width // self.heads * self.keys
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            yield f"{prefix}self_attn.q_proj.weight", (self.width, self.width)
            yield f"{prefix}self_attn.k_proj.weight", (keys, self.width)
            yield f"{prefix}self_attn.v_proj.weight", (keys, self.width)
            yield f"{prefix}self_attn.o_proj.weight", (self.width, self.width)
            yield f"{prefix}mlp.gate_proj.weight", (self.inside, self.width)
            yield f"{prefix}mlp.up_proj.weight", (self.inside, self.width)
            yield f"{prefix}mlp.down_proj.weight", (self.width, self.inside)
            yield f"{prefix}input_layernorm.weight", (self.width,)
            yield f"{prefix}post_attention_layernorm.weight", (self.width,)
        yield "model.norm.weight", (self.width,)


SHAPES = {
    "tiny": Shape(64, 128, 2, 4, 2, 288),
    "135M": Shape(576, 1536, 30, 9, 3, 49152),
    "341M": Shape(1024, 2816, 24, 16, 16, 32000),
    "1.1B": Shape(2048, 5632, 22, 32, 4, 32000),
}


def write_base(shape: Shape, directory: Path) -> Path:
    """Write a model in bfloat16, unless it is there."""
    if (directory / "config.json").exists():
        return directory
    directory.mkdir(parents=True)
    torch.manual_seed(0)
    tensors = {name: (torch.randn(size) * 0.02).bfloat16() for name, size in shape.tensors()}
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    write_config(shape, directory, "bfloat16")
    return directory


def write_config(shape: Shape, directory: Path, dtype: str) -> None:
    """Write config.json of a model whose weights have this dtype."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.width,
        "intermediate_size": shape.inside,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.keys,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
    }
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")


def full_expert(base: Path, directory: Path, seed: int) -> Path:
    """Write an expert all of whose numbers differ from the base's a little, unless it is there."""
    if (directory / "config.json").exists():
        return directory
    directory.mkdir(parents=True)
    torch.manual_seed(seed)
    tensors = {
        name: (value.float() + 0.002 * torch.randn(value.shape)).bfloat16()
        for name, value in load_file(base / "model.safetensors").items()
    }
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_bytes((base / "config.json").read_bytes())
    return directory


def adapter(shape: Shape, base: Path, directory: Path, seed: int) -> Path:
    """Write a LoRA adapter on all linears, unless it is there."""
    if (directory / "adapter_config.json").exists():
        return directory
    directory.mkdir(parents=True)
    torch.manual_seed(seed)
    tensors = {}
    for name, size in shape.tensors():
        if "_proj." in name:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{module}.lora_A.weight"] = 0.02 * torch.randn(RANK, size[1])
            tensors[f"{module}.lora_B.weight"] = 0.02 * torch.randn(size[0], RANK)
    save_file(tensors, directory / "adapter_model.safetensors", {"format": "pt"})
    targets = sorted({name.split(".")[-2] for name, _ in shape.tensors() if "_proj." in name})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": RANK,
        "lora_alpha": 2 * RANK,
        "target_modules": targets,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


def with_tokenizer(directory: Path) -> Path:
    """Give a model a tokenizer of bytes, with one merge and a token that ends a text, as llama.cpp needs."""
    tokens = {token: index for index, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(BPE(vocab={**tokens, "th": len(tokens)}, merges=[("t", "h")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return directory


def pack(base: Path, target: Path) -> Path:
    """Pack a model, its linears rounded to the nearest on Q4_0, unless it is there."""
    if target.exists():
        return target
    grid = GRIDS["Q4_0"]
    tensors: dict[str, PackedTensor | Tensor] = {}
    for name, value in load_file(base / "model.safetensors").items():
        if "_proj." in name:
            codes, stored = grid.quantise(value.float())
            tensors[name] = PackedTensor(grid, codes, stored)
        else:
            tensors[name] = value.half() if value.ndim == 2 else value.float()
    index = PackedIndex(family="llama", method={"name": "rtn"}, recipe={}, inputs=[], versions={}, grids={})
    packing.write(target, tensors, index, base)
    return target
