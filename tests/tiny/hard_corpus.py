"""Texts that tokenizers get wrong, the same at every run: more than 2,000 lines for llama.cpp and Hugging
Face to agree on.
"""

import random
import unicodedata
from collections.abc import Sequence
from functools import cache

from epmq_export.models.hard_texts import HARD_TEXTS

_SEED = 20240229
_WORDS = [
    "the",
    "of",
    "and",
    "a",
    "to",
    "in",
    "is",
    "you",
    "that",
    "it",
    "he",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "I",
    "at",
    "be",
    "this",
    "have",
    "from",
    "or",
    "one",
    "had",
    "by",
    "word",
    "don't",
    "I'M",
    "we'RE",
    "they'Ve",
    "it's",
    "IT'S",
    "'s",
    "'T",
    "'ll",
    "'LL",
    "'d",
    "o'clock",
    "rock'n'roll",
    "l'été",
    "tokenisation",
    "internationalisation",
    "Donaudampfschifffahrtsgesellschaft",
    "supercalifragilisticexpialidocious",
    "naïve",
    "café",
    "Zürich",
    "Łódź",
    "İstanbul",
    "straße",
    "Ångström",
    "Œuvre",
    "señor",
    "Привет",
    "мир",
    "Ελλάδα",
    "שלום",
    "مرحبا",
    "नमस्ते",
    "สวัสดี",
    "你好",
    "世界",
    "こんにちは",
    "カタカナ",
    "안녕하세요",
    "ქართული",
    "հայերեն",
    "አማርኛ",
    "x",
    "y",
    "z",
    "i",
    "j",
    "0",
    "1",
    "12",
    "123",
    "1234",
    "12345",
    "1234567",
    "3.14",
    "1e-9",
    "0xFF",
    "1_000",
    "١٢٣",
    "४५६",
    "Ⅻ",
    "½",
    "²",
    "👍",
    "👍🏽",
    "👩\u200d👩\u200d👧",
    "🇫🇷",
    "❤️",
    "…",
    "—",
    "–",
    "“",
    "”",
    "«",
    "»",
    "™",
    "©",
    "°",
    "µ",
    "€",
    "£",
    "¥",
]
_JOINTS = (
    " ",
    " ",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\t",
    " \n",
    "\n ",
    "\t\t",
    "\r\n",
    ", ",
    ". ",
    "; ",
    "-",
    "_",
    "/",
    "",
    "'",
    "\u00a0",
    "\u3000",
)
_CODE = (
    "def f(x: int) -> str:\n    if x > 0:\n        return f'{x:>08.3f}'\n\treturn None\n",
    '#include <stdio.h>\nint main(void) {\n\tprintf("%d\\n", 0x1F & ~3);\n\treturn 0;\n}\n',
    "const go = async ({a, ...rest}) => { await f?.(a ?? 1); };  // 😀\n",
    "SELECT a.id, COUNT(*) FROM t AS a WHERE a.x <> 'it''s' GROUP BY 1;\n\n\n",
    'fn main() { let v: Vec<&\'static str> = vec![]; println!("{:?}", v); }\r\n',
    '<div class="a b"><!-- x --><p>1 &lt; 2</p></div>\n<br/>',
    'for f in *.txt; do echo "${f%.txt}" >> /dev/null 2>&1; done\n',
    "\\frac{\\partial u}{\\partial t} = \\alpha \\nabla^2 u % heat\n",
    '{"a": [1, 2.50, -3e+10, null], "b": {"c": "\\u00e9"}}',
    "key:\n  - a\n  -   b: 'c'\n",
    "a+=b;c-=d;e==f;g!==h;i<=j;k>>>l;m&&n||!o;p??q;r?.s",
    "============\n------------\n************ ////////// ..........\n",
)
_SPACES = " \t\n\r\v\f\u0085\u00a0\u1680\u2003\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
_LETTERS = "aAzZeéßſıİΣςЯאش你カ가नกሀ"


@cache
def hard_corpus(specials: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the lines. `specials` are the tokenizer's added tokens, which stand in some of them; give it a
    tuple.
    """
    chance = random.Random(_SEED)
    lines = [
        *HARD_TEXTS,
        *_CODE,
        *_whitespace(),
        *_digits(),
        *_contractions(),
        *_blocks(),
        *_controls(),
        *_long(chance),
    ]
    lines += [_sentence(chance, ()) for _ in range(700)]
    lines += [_noise(chance) for _ in range(300)]
    if specials:
        shown = [*specials[:20], *chance.sample(list(specials), min(20, len(specials)))]
        lines += [
            form.format(special)
            for special in shown
            for form in ("{}", "a{}b", " {} ", "x {} y", "{0}{0}", "a\n{}\nb", "{} a", "a {}")
        ]
        lines += [f"a {_full_width(special)} b" for special in shown]
        lines += [_sentence(chance, shown) for _ in range(200)]
    return tuple(dict.fromkeys(lines))


def _whitespace() -> list[str]:
    runs = [letter * count for letter in " \t\n" for count in (*range(1, 20), 31, 32, 33, 64, 100)]
    mixed = ["\n \n", " \n ", "\t \t", "\r\n\r\n", "\n\r", " \t\n", "\n\n \n\n", "   \n\n   "]
    shapes = ("{}", "a{}b", "{}a", "a{}", ".{}.", "a{}1")
    single = [shape.format(letter) for letter in _SPACES for shape in (*shapes, "a {} b", "{0}{0}a")]
    return [shape.format(run) for run in (*runs, *mixed) for shape in shapes] + single


def _digits() -> list[str]:
    runs = ["1234567890"[:length] for length in range(1, 11)] + [
        "9" * length for length in (11, 12, 13, 20, 50)
    ]
    return [
        shape.replace("{}", run) for run in runs for shape in ("{}", " {}", "a{}", "{}a", "-{}.{}", "1,{},{}")
    ] + [
        "٣٤٥٦٧",
        "৪৫৬",
        "１２３４",
        "①②③",
        "ⅣⅤ",
        "½¼",
        "²³",
        "二〇二四",
    ]


def _contractions() -> list[str]:
    tails = ("s", "t", "re", "ve", "m", "ll", "d", "x", "l", "r", "v")
    spelt = [
        how for tail in tails for how in dict.fromkeys((tail, tail.upper(), tail.capitalize(), tail + "a"))
    ]
    return [
        shape.format(tail)
        for tail in spelt
        for shape in ("'{}", "we'{}", "we'{} go", "WE'{}", " '{} ", "1'{}", "’{}", "''{}", "é'{}")
    ]


def _blocks() -> list[str]:
    """Return a few code points of every 128 that hold an assigned one, alone between letters and as a run."""
    lines = []
    for start in [
        *range(0x80, 0x3400, 0x80),
        0x4E00,
        0x9F80,
        *range(0xA000, 0xAC00, 0x80),
        0xAC00,
        0xD780,
        0xF900,
        *range(0xFB00, 0x10000, 0x80),
        *range(0x10000, 0x12000, 0x100),
        *range(0x1D000, 0x20000, 0x80),
        0x20000,
        0x2F800,
        0x30000,
        0xE0100,
    ]:
        known = [
            chr(code)
            for code in range(start, start + 0x80)
            if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")
        ]
        if known:
            few = known[:: max(1, len(known) // 6)]
            lines += [
                "".join(few),
                " ".join(few),
                "".join(f"a{letter}b" for letter in few),
                "".join(f"1{letter} " for letter in few),
            ]
    return lines


def _controls() -> list[str]:
    return [
        f"a{chr(code)}b {chr(code)}"
        for code in (
            *range(0x20),
            *range(0x7F, 0xA1),
            0xAD,
            0x200B,
            0x200C,
            0x200D,
            0x200E,
            0x2060,
            0xFEFF,
            0xFFFC,
            0xFFFD,
            0xFFFE,
            0xFFFF,
        )
    ]


def _long(chance: random.Random) -> list[str]:
    words = [letter * count for letter in _LETTERS for count in (2, 3, 5, 8, 17, 60)]
    return [
        *words,
        "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=300)),
        "".join(chance.choices("ACGT", k=200)),
        "ab" * 150,
        "-" * 99,
        "." * 41,
        "=" * 80,
        "_" * 33,
        "!?" * 20,
        "\u2581",
        "a\u2581b",
        "\u2581a \u2581\u2581 b\u2581",
    ]


def _full_width(text: str) -> str:
    return "".join(chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else letter for letter in text)


def _sentence(chance: random.Random, specials: Sequence[str]) -> str:
    pieces = []
    for _ in range(chance.randint(2, 14)):
        pieces.append(
            chance.choice(specials) if specials and chance.random() < 0.2 else chance.choice(_WORDS)
        )
        pieces.append(chance.choice(_JOINTS))
    return chance.choice(("", "", "", " ", "  ", "\n")) + "".join(pieces)


def _noise(chance: random.Random) -> str:
    """Return letters of every kind in no order, spaces and punctuation among them."""
    ranges = (
        (0x20, 0x7F),
        (0x20, 0x7F),
        (0x20, 0x7F),
        (0xA0, 0x250),
        (0x370, 0x530),
        (0x590, 0x700),
        (0x900, 0xE80),
        (0x2000, 0x2BFF),
        (0x3000, 0x3100),
        (0x4E00, 0x9FFF),
        (0xAC00, 0xD7A4),
        (0x1F300, 0x1FA00),
    )
    letters = (chr(chance.randrange(*chance.choice(ranges))) for _ in range(chance.randint(3, 40)))
    return "".join(letter for letter in letters if unicodedata.category(letter) not in ("Cn", "Cs"))
