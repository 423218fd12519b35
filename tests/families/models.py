"""A small model of each `model_type` that families are known for, and of those that embed texts where
sentence-transformers' modules stand beside them, with what its tests ask of it.

Who adds a family adds its models here, and then every test of test_contract.py is one of the family's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from epmq_export.models.samples import Passage, Sample
from epmq_export.verification.probes import hard_pictures
from tests.tiny import clip, decoder, embedder, encoders, siglip, t5, vit
from tests.tiny.bert import small_bert


@dataclass(frozen=True)
class Model:
    """How a model of a family is made, and what it is given."""

    write: Callable[[Path], Path]
    """Writes config, weights and all else into a directory, which is not there yet, and returns it."""

    samples: Sequence[Sample]
    """Samples of several lengths."""

    long: Sequence[Sample] = ()
    """Samples that the model has no room for."""

    number: str = "hidden_size"
    """A key of config.json, dotted where it lies deeper, that takes a number."""

    like: str | None = None
    """Another kind with the same keys, which the same code runs: they are tried in turn for that one."""

    light: Callable[[Path], Path] | None = None
    """Writes the same with few layers, where a format asks for many."""


EMBEDS = "-embedding"
"""The ending of the names of models with modules beside them."""

TEXTS = ["the cat sat on the mat .", "a", "it is good , very good !", "what is that ?"]
ENDLESS = "the cat sat on the mat , it is good . " * 200
TOO_LONG = [ENDLESS, Passage(ENDLESS, " a dog"), Passage("", ENDLESS)]
PASSAGES = [Passage("it is", " good , very good !"), Passage("the cat sat on the mat . " * 3, " a dog")]
# Of made-up words, which its tokenizer knows.
T5_TEXTS = t5.texts(6, 1)
# Where either half has nothing but its end, too.
T5_PASSAGES = [Passage(*T5_TEXTS[:2]), Passage("", T5_TEXTS[2]), Passage(T5_TEXTS[3], ""), Passage("", "")]


def _bert(directory: Path) -> Path:
    small_bert(directory)
    torch.manual_seed(0)
    BertModel(BertConfig.from_pretrained(directory)).save_pretrained(directory)
    return directory


MODELS: Mapping[str, Model] = {
    "bert": Model(_bert, TEXTS, [ENDLESS]),
    **{
        kind: Model(partial(encoders.encoder, kind=kind), TEXTS, [ENDLESS], like=like)
        for kind, like in (("roberta", None), ("xlm-roberta", "roberta"), ("camembert", "roberta"))
    },
    "distilbert": Model(partial(encoders.encoder, kind="distilbert"), TEXTS, [ENDLESS], number="dim"),
    "mpnet": Model(partial(encoders.encoder, kind="mpnet"), TEXTS, [ENDLESS]),
    "modernbert": Model(partial(encoders.encoder, kind="modernbert"), TEXTS, [ENDLESS]),
    "clip": Model(
        clip.clip,
        hard_pictures()[3:7],
        number="vision_config.hidden_size",
        light=partial(clip.clip, text={"num_hidden_layers": 2}, vision={"num_hidden_layers": 2}),
    ),
    "siglip": Model(siglip.siglip, hard_pictures()[3:7], number="vision_config.hidden_size"),
    **{
        kind: Model(partial(vit.vit, architecture=architecture), hard_pictures()[3:7])
        for kind, architecture in (
            ("vit", "ViTModel"),
            ("deit", "DeiTModel"),
            ("dinov2", "Dinov2Model"),
            ("dinov2_with_registers", "Dinov2WithRegistersModel"),
            ("dinov3_vit", "DINOv3ViTModel"),
        )
    },
    **{
        kind: Model(partial(decoder.write, kind=name), [*TEXTS, *PASSAGES], TOO_LONG)
        for kind, name in (
            *((kind, kind) for kind in ("llama", "mistral", "qwen2", "qwen3", "qwen3_moe")),
            *((kind, kind) for kind in ("smollm3", "granite", "olmo2", "olmoe", "mixtral", "gemma2", "phi3")),
            ("gemma3_text", "gemma3"),
        )
    },
    # Dense modules have tests of their own.
    **{
        f"{kind}{EMBEDS}": Model(write, [*TEXTS, ""], [ENDLESS])
        for kind, write in (
            ("qwen3", embedder.write),
            ("gemma3_text", partial(embedder.write_gemma, dense=False)),
        )
    },
    "t5": Model(t5.t5, [*T5_TEXTS[2:], "", *T5_PASSAGES], TOO_LONG, number="d_model"),
}
