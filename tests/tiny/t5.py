"""Random T5 models of both versions, with a Unigram tokenizer of made-up words, and experts near them."""

import json
import random
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

from tests.tiny.recipe_project import WORDS

# By the versions' names: what they differ in.
VERSIONS = {
    "1.0": {"feed_forward_proj": "relu"},
    "1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}


def texts(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.sample(WORDS[:60], draw.randint(1, 12))) for _ in range(count)]


@cache
def trained() -> str:
    """Train a vocabulary of pieces of the words, and return it as JSON."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts(200, 0), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    rules = json.loads(tokenizer.to_str())
    # In single precision, as SentencePiece and llama.cpp hold them.
    rules["model"]["vocab"] = [[piece, float(np.float32(score))] for piece, score in rules["model"]["vocab"]]
    return json.dumps(rules)


def t5(
    directory: Path,
    version: str = "1.0",
    *,
    seed: int = 0,
    depths: tuple[int, int] = (3, 2),
    **settings: object,
) -> Path:
    """Write a model with weights as trained ones have them: scores that differ, norms that are no ones. 24
    rows of the embeddings stand for no token.

    `depths` are the layers of the encoder and of the decoder.
    """
    tokenizer = Tokenizer.from_str(trained())
    chosen = {**VERSIONS[version], **settings}
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size() + 24,
        d_model=64,
        d_kv=16,
        d_ff=96,
        num_layers=depths[0],
        num_decoder_layers=depths[1],
        num_heads=2,
        decoder_start_token_id=0,
        n_positions=64,
        **chosen,  # type: ignore[arg-type]
    )
    torch.manual_seed(seed)
    model = T5ForConditionalGeneration(config)
    if chosen.get("tie_word_embeddings") is False:
        model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight) / 8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("relative_attention_bias.weight"):
                parameter.normal_()
            elif name.endswith("norm.weight"):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            elif ".q." in name or ".k." in name:
                parameter.mul_(3)
    model.save_pretrained(directory)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(directory)
    return directory


def configured(directory: Path, **changes: object) -> Path:
    """Change keys of a directory's config (None: take the key out)."""
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return directory


def near(folder: Path, base: Path, seed: int) -> None:
    """Write a whole model with noise on the base's matrices."""
    shutil.copytree(base, folder)
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(base / "model.safetensors")
    moved = {
        name: value + 0.1 * value.std() * torch.randn(value.shape, generator=generator)
        if "block" in name
        else value
        for name, value in tensors.items()
    }
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
