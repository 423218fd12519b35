"""Small tokenizers of every kind that llama.cpp reads, trained in the test on the lines that they are tested
on.
"""

import base64
import json
import struct
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from converters.tokenizers.for_llama_cpp import agreement, called, gguf_tokenizer
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from tests.tiny.hard_corpus import hard_corpus
from tests.tiny.vocabulary_file import vocabulary_file

Rules = dict[str, Any]
BOS, EOS, UNKNOWN = "<s>", "</s>", "<unk>"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
PREPEND = {"type": "Prepend", "prepend": "▁"}
METASPACE = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
JOIN = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
STRIP = {"type": "Strip", "strip_left": False, "strip_right": True}


def added(content: str, row: int, *, special: bool = True) -> Rules:
    return {
        "id": row,
        "content": content,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def template(*parts: str) -> Rules:
    """Return a post-processor, in which `text` stands for the text."""
    pieces = [
        {"Sequence": {"id": "A", "type_id": 0}}
        if part == "text"
        else {"SpecialToken": {"id": part, "type_id": 0}}
        for part in parts
    ]
    names = {BOS: 1, EOS: 2}
    special = {part: {"id": part, "ids": [names[part]], "tokens": [part]} for part in parts if part != "text"}
    return {
        "type": "TemplateProcessing",
        "single": pieces,
        "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": special,
    }


def tokenizer(rules: Rules, **named: str) -> PreTrainedTokenizerFast:
    names = {"bos_token": BOS, "eos_token": EOS, "unk_token": UNKNOWN} | named
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(rules)),
        **{key: name for key, name in names.items() if name},
    )


def split(regex: str) -> list[Rules]:
    return [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
        byte_level(False),
    ]


def byte_level(use_regex: bool) -> Rules:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


@cache
def _byte_bpe() -> str:
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        show_progress=False,
        initial_alphabet=alphabet,
        special_tokens=[UNKNOWN, BOS, EOS, "<|im_end|>"],
    )
    trained.train_from_iterator(hard_corpus(), trainer)
    return str(trained.to_str())


def byte_bpe(*steps: Rules, ignore_merges: bool = False, normalizer: Rules | None = None) -> Rules:
    """Train byte-level BPE: <unk>, <s>, </s> and <|im_end|> are special, `<sep>` is not, and some words are
    tokens that no merges make.
    """
    rules: Rules = json.loads(_byte_bpe())
    model = rules["model"]
    for word in ("Ġinternationalisation", "tokenisation", "1234567", "==="):
        model["vocab"].setdefault(word, len(model["vocab"]))
    rules["added_tokens"].append(added("<sep>", len(model["vocab"]), special=False))
    rules["pre_tokenizer"] = (
        {"type": "Sequence", "pretokenizers": list(steps)} if len(steps) > 1 else steps[0]
    )
    model["ignore_merges"] = ignore_merges
    rules["normalizer"] = normalizer
    rules["decoder"] = json.loads(decoders.ByteLevel().__getstate__())
    return rules


@cache
def _sentencepiece() -> str:
    """Return SentencePiece's order: pieces of one letter first, then those that are merged; every way to make
    one is a merge.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(
        (line.replace("\0", "") for line in hard_corpus()),
        trainers.BpeTrainer(vocab_size=900, limit_alphabet=200, show_progress=False),
    )
    learned = sorted(trained.get_vocab(), key=trained.get_vocab().__getitem__)
    runs = ["▁" * count for count in (2, 3, 4, 8)] + ["==", "====", "abab"]
    singles = [piece for piece in learned if len(piece) == 1]
    merged = [*dict.fromkeys([*runs[:3], *(piece for piece in learned if len(piece) > 1), *runs[3:]])]
    pieces = [UNKNOWN, BOS, EOS, *(f"<0x{byte:02X}>" for byte in range(256)), *singles, *merged]
    known = set(pieces)
    merges = [
        [piece[:at], piece[at:]]
        for piece in merged
        for at in range(1, len(piece))
        if piece[:at] in known and piece[at:] in known
    ]
    model = models.BPE(
        vocab={piece: row for row, piece in enumerate(pieces)},
        merges=[(a, b) for a, b in merges],
        unk_token=UNKNOWN,
        fuse_unk=True,
        byte_fallback=True,
    )
    return str(Tokenizer(model).to_str())


def sentencepiece(normalizer: Rules | None, pre_tokenizer: Rules | None = None, *parts: str) -> Rules:
    rules: Rules = json.loads(_sentencepiece())
    rules["added_tokens"] = [added(token, row) for row, token in enumerate((UNKNOWN, BOS, EOS))]
    rules["added_tokens"].append(added("\n\n", len(rules["model"]["vocab"]), special=False))
    rules["normalizer"], rules["pre_tokenizer"] = normalizer, pre_tokenizer
    rules["post_processor"] = template(*(parts or (BOS, "text")))
    return rules


@cache
def _unigram() -> str:
    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    lines = [line for line in hard_corpus() if line.isascii() and "\0" not in line] * 2
    trained.train_from_iterator(
        lines,
        trainers.UnigramTrainer(
            vocab_size=400, show_progress=False, special_tokens=[UNKNOWN, BOS, EOS], unk_token=UNKNOWN
        ),
    )
    return str(trained.to_str())


def unigram(charsmap: Mapping[str, str] | None, *steps: Rules, pre_tokenizer: Rules | None = None) -> Rules:
    rules: Rules = json.loads(_unigram())
    # in steps of 2^-10, which JSON's few digits hold exactly: the library reads long ones an ulp off, and
    # ties are broken by that
    rules["model"]["vocab"] = [
        [piece, round(score * 1024) / 1024] for piece, score in rules["model"]["vocab"]
    ]
    normalizers = [
        *([{"type": "Precompiled", "precompiled_charsmap": precompiled(charsmap)}] if charsmap else []),
        *steps,
    ]
    rules["normalizer"] = {"type": "Sequence", "normalizers": normalizers} if normalizers else None
    rules["pre_tokenizer"] = pre_tokenizer or METASPACE
    rules["post_processor"] = template("text", EOS)
    return rules


def precompiled(table: Mapping[str, str]) -> str:
    """Return SentencePiece's table of characters in base64: the length of a double array, the array, the
    replacements, each ended by a zero.

    A node's children lie 256 apart from every other's, which wastes room and needs no search.
    """
    replacements, tree = b"", {}
    for source, target in table.items():
        node: Any = tree
        for byte in source.encode():
            node = node.setdefault(byte, {})
        node[0] = len(replacements)
        replacements += target.encode() + b"\0"
    units: dict[int, int] = {}

    def place(node: Any, at: int, label: int) -> None:
        blocks.append(at)
        block = 256 * len(blocks)
        units[at] = ((at ^ block) << 10) | (0 in node) << 8 | label
        for byte, child in node.items():
            if byte == 0:
                units[block] = child | 1 << 31
            else:
                place(child, block | byte, byte)

    blocks: list[int] = []
    place(tree, 0, 0)
    array = b"".join(struct.pack("<I", units.get(index, 0)) for index in range(256 * (len(blocks) + 1)))
    return base64.b64encode(struct.pack("<I", len(array)) + array + replacements).decode()


def compared(
    fast: PreTrainedTokenizerFast, folder: Path
) -> tuple[dict[str, tuple[list[int], list[int]]], list[str]]:
    """Return the hard corpus's lines whose ids differ, Hugging Face's first; and those left out, because
    nothing a file says could make them agree.
    """
    added_tokens = tuple(
        entry["content"] for entry in json.loads(fast.backend_tokenizer.to_str())["added_tokens"]
    )
    alike = agreement(fast)
    every = hard_corpus(added_tokens)
    lines = [line for line in every if alike(line)]
    keys = gguf_tokenizer(fast, folder, max(fast.get_vocab().values()) + 4)
    path = vocabulary_file(folder / "vocabulary.gguf", {**keys, "general.name": called(fast) or "Model"})
    pairs = zip(lines, LlamaCpp().tokens(path, lines), strict=True)
    return {line: (expected, found) for line, found in pairs if found != (expected := fast.encode(line))}, [
        line for line in every if not alike(line)
    ]
