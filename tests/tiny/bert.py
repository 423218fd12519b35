"""A BERT of two layers with weights of its own, for tests that need a whole model directory and not a good
one.
"""

import json
import string
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import torch
from transformers import BertConfig, BertModel
from transformers.models.bert import BertTokenizer

from converters import open_family
from epmq_export.grids import GRIDS
from epmq_export.models.family import Family
from epmq_export.tensors import packed_writer
from epmq_export.tensors.packed import Packed, PackedTensor
from tests.tiny.packed_index import an_index

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    "the",
    "weather",
    "is",
    "good",
    "Good",
    "café",
    "cafe",
    "##ing",
    "中",
    "ß",
    "é",
    "##é",
    "!",
    ",",
    "[",
    "]",
    "É",
)
VOCABULARY = (*SPECIALS, *WORDS, *string.ascii_letters, *(f"##{letter}" for letter in string.ascii_letters))


def small_bert(
    directory: Path,
    *,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    pooling: str = "mean",
    width: int = 64,
) -> Path:
    """Write a model directory without weights: config, tokenizer, pooling."""
    directory.mkdir(parents=True)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=32,
    )
    config.save_pretrained(directory)
    vocabulary = {token: row for row, token in enumerate(VOCABULARY)}
    BertTokenizer(
        vocab=vocabulary, do_lower_case=lowercase, strip_accents=strip_accents, model_max_length=32
    ).save_pretrained(directory)
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    return directory


def small_packed(
    place: Path,
    source: Path,
    *,
    grid: str | Sequence[str] | None = "Q4_0",
    index: dict[str, object] | None = None,
) -> tuple[Packed, Family]:
    """Pack random weights of that model at `place`, its layers' matrices on a grid (None: nothing on a grid;
    several: each in its turn).
    """
    turns = cycle([grid] if isinstance(grid, str) else grid or [])
    family = open_family(source)
    torch.manual_seed(1)
    model = BertModel(BertConfig.from_pretrained(source))
    tensors: dict[str, PackedTensor | torch.Tensor] = {}
    for name, value in model.state_dict().items():
        canonical = family.canonical(name)
        if canonical is None:
            continue
        value = value + 0.1 * torch.randn(value.shape)
        if grid is not None and value.ndim == 2 and canonical.startswith("encoder"):
            taken = GRIDS[next(turns)]
            tensors[canonical] = PackedTensor(taken, *taken.quantise(value))
        else:
            tensors[canonical] = (
                value.half() if canonical in family.embeddings and grid is not None else value
            )
    packed_writer.write(place, tensors, an_index("bert", **(index or {})), source)
    return Packed(place), family
