"""A SigLIP of two layers with random weights, and experts of its image tower."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers import normalizers as rules
from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from tests.tiny.t5 import trained

SIDE, PATCH, WIDTH, LONGEST = 32, 8, 64, 20


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer as SigLIP's, T5's that lowers texts: what ends a text pads it, too."""
    made = Tokenizer.from_str(trained())
    made.normalizer = rules.Sequence([rules.Lowercase(), made.normalizer])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=LONGEST,
        model_input_names=["input_ids"],
    )


def siglip(
    directory: Path,
    *,
    seed: int = 0,
    text: dict[str, Any] | None = None,
    vision: dict[str, Any] | None = None,
) -> Path:
    """Write a model directory: config, weights, tokenizer, image processor. `text` and `vision` change the
    towers' configs.
    """
    words = tokenizer()
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 2 * WIDTH}
    texts = {"hidden_size": 32, "projection_size": WIDTH, "vocab_size": len(words) + 3}
    ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), words.pad_token_id)
    texts |= {"max_position_embeddings": LONGEST, **ends}
    pictures = {"hidden_size": WIDTH, "image_size": SIDE, "patch_size": PATCH}
    torch.manual_seed(seed)
    model = SiglipModel(
        SiglipConfig(
            text_config={**sizes, **texts, **(text or {})},
            vision_config={**sizes, **pictures, **(vision or {})},
        )
    )
    with torch.no_grad():  # Norms, biases and the probe as they are after training.
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(directory)
    words.save_pretrained(directory)
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "SiglipTokenizer"  # As in its own files.
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(directory)
    return directory


def vision_expert(directory: Path, base: Path, seed: int, *, prefix: bool = True) -> Path:
    """Write the base's image tower alone, with noise on its matrices, under SiglipModel's names or
    (`prefix=False`) under the tower's own.
    """
    torch.manual_seed(seed)
    before = "vision_model."
    directory.mkdir()
    moved = {
        name if prefix else name.removeprefix(before): value + 0.02 * torch.randn_like(value)
        for name, value in load_file(base / "model.safetensors").items()
        if name.startswith(before)
    }
    save_file(moved, directory / "model.safetensors", {"format": "pt"})
    return directory
