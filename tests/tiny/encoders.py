"""Small models of BERT's kinds with random weights. The tokenizer of each knows a few words."""

import base64
import json
import string
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CONFIG_MAPPING,
    AddedToken,
    AutoModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.models.bert import BertTokenizer
from transformers.models.camembert import CamembertTokenizer
from transformers.models.mpnet import MPNetTokenizer
from transformers.models.roberta import RobertaTokenizer
from transformers.models.xlm_roberta import XLMRobertaTokenizer

from converters import open_family
from epmq_export.calibration.rounding import nearest
from epmq_export.grids import GRIDS
from epmq_export.models.blocks import linears
from epmq_export.models.family import Family
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.tensors import packed_writer
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.source import renamed
from tests.tiny.bert import VOCABULARY
from tests.tiny.packed_index import an_index
from tests.tiny.tokenizers import precompiled

LONGEST = 32
TABLE = {"\t": " ", "\n": " ", "\u00a0": " ", "\u3000": " ", "É": "é", "e\u0301": "é", "ﬁ": "fi", "…": "..."}
# SentencePiece's scores: the longer a piece, the more often it is taken.
_PIECES = {
    "▁": -3.0,
    **{f"▁{word}": -5.0 for word in ("the", "cat", "sat", "mat", "good", "it", "is", "very", "what", "that")},
    **dict.fromkeys(("ing", "at", "th", "oo"), -6.5),
    **dict.fromkeys((*string.ascii_lowercase, *string.digits, *".,!?é"), -9.0),
}
_MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("a", "t"), ("Ġ", "c"), ("Ġc", "at"), ("o", "o")]


def _roberta() -> PreTrainedTokenizerBase:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *letters, *("".join(pair) for pair in _MERGES), "<mask>"]
    return RobertaTokenizer(
        vocab={piece: row for row, piece in enumerate(pieces)}, merges=_MERGES, model_max_length=LONGEST
    )


def sentencepiece_charsmap(table: Mapping[str, str] = TABLE) -> bytes:
    return base64.b64decode(precompiled(table))


def xlm_roberta() -> PreTrainedTokenizerBase:
    """Return XLM-RoBERTa's tokenizer, which multilingual BERTs have, too."""
    pieces = [*((name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")), *_PIECES.items(), ("<mask>", 0.0)]
    return XLMRobertaTokenizer(
        vocab=pieces, _spm_precompiled_charsmap=sentencepiece_charsmap(), model_max_length=LONGEST
    )


def _camembert() -> PreTrainedTokenizerBase:
    first = ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>")
    scores = {**dict.fromkeys(first, 0.0), "<unk>NOTUSED": -100.0, **_PIECES, "<mask>": 0.0}
    pieces = [*scores.items()]
    return CamembertTokenizer(
        vocab=pieces, _spm_precompiled_charsmap=sentencepiece_charsmap(), model_max_length=LONGEST
    )


def _wordpiece() -> PreTrainedTokenizerBase:
    return BertTokenizer(vocab={token: row for row, token in enumerate(VOCABULARY)}, model_max_length=LONGEST)


def _mpnet() -> PreTrainedTokenizerBase:
    """Return a tokenizer as MPNet's: BERT's pieces between RoBERTa's special tokens."""
    pieces = ["<s>", "<pad>", "</s>", *(token for token in VOCABULARY if token != "[PAD]"), "<mask>"]
    return MPNetTokenizer(vocab={piece: row for row, piece in enumerate(pieces)}, model_max_length=LONGEST)


def _modernbert() -> PreTrainedTokenizerBase:
    """Return a tokenizer as ModernBERT's: runs of spaces are tokens, and special ones have BERT's names."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*letters, *("".join(pair) for pair in _MERGES), "[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    rows = {piece: row for row, piece in enumerate(pieces)}
    made = Tokenizer(models.BPE(rows, _MERGES, unk_token=None))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.decoder = decoders.ByteLevel()
    ends = [(name, rows[name]) for name in ("[CLS]", "[SEP]")]
    pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
    made.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", pair, ends)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token=AddedToken("[MASK]", lstrip=True),
        model_max_length=LONGEST,
    )
    tokenizer.add_tokens([AddedToken(" " * count, normalized=True) for count in (2, 3, 4)])
    return tokenizer


TOKENIZERS: Mapping[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bert": xlm_roberta,
    "roberta": _roberta,
    "xlm-roberta": xlm_roberta,
    "camembert": _camembert,
    "distilbert": _wordpiece,
    "mpnet": _mpnet,
    "modernbert": _modernbert,
}


def encoder(
    directory: Path, kind: str, *, pooling: str = "mean", longest: int = LONGEST, **changes: object
) -> Path:
    """Write a model of two layers with its tokenizer and its pooling, for texts of so many tokens, with
    changes to its config.
    """
    tokenizer = TOKENIZERS[kind]()
    tokenizer.model_max_length = longest
    wide: dict[str, object] = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "type_vocab_size": 2 if kind == "bert" else 1,
        "max_position_embeddings": longest + (2 if kind not in ("bert", "distilbert") else 0),
        "layer_norm_eps": 1e-5,
    }
    if kind == "distilbert":
        wide = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "max_position_embeddings": longest}
    if kind == "modernbert":
        # Of the layers two look at all tokens, and the others at those that are up to 4 away.
        wide = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 96}
        wide |= {"local_attention": 8, "max_position_embeddings": longest}
    config = CONFIG_MAPPING[kind](
        vocab_size=len(tokenizer) + 3,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **(wide | changes),
    )
    torch.manual_seed(0)
    model = AutoModel.from_config(config)
    with torch.no_grad():  # Norms as they are after training, and not ones and zeros.
        for value in model.parameters():
            value += 0.05 * torch.randn_like(value)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
    return directory


def packed_encoder(
    place: Path, source: Path, *, grid: str | None = "Q4_0", offset: float = 0.0
) -> tuple[Packed, Family]:
    """Pack such a model at `place`, its linears on a grid (None: nothing on a grid). `offset` is what its
    norms add to their weights.
    """
    family = open_family(source)
    stored, matrices = renamed(open_checkpoint(source), family.canonical), {*linears(family)}
    norm = RmsNorm(1, 1e-6, offset)  # as calibration ships them
    tensors = {
        name: norm.whole(value) if (value := stored.load(name)).ndim == 1 else value
        for name in stored.names()
    }
    held = {
        name: nearest(value, GRIDS[grid]) if grid is not None and name in matrices else value
        for name, value in tensors.items()
    }
    packed_writer.write(place, held, an_index(family.name), source)
    return Packed(place), family
