"""Texts on which a wrong tokenizer shows."""

from itertools import product

HARD_TEXTS = (
    "",
    " ",
    "\t\n\r ",
    ".",
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "UPPER lower MiXeD tItLe",
    "café naïve façade Ångström jalapeño",
    "cafe\u0301 nai\u0308ve A\u030angstro\u0308m",
    "Straße, Œuvre, Ærø, Łódź, Đakovo",
    "İstanbul ve Iğdır arasında",
    "Ελληνικά: ΟΔΥΣΣΕΥΣ, Οδυσσεύς",
    "Съешь же ещё этих мягких французских булок, да выпей чаю",
    "їжак, ґанок, ёлка, й",
    "שלום עולם, מה שלומך?",
    "مرحبا بالعالم، كيف حالك؟",
    "我爱北京天安门，天安门上太阳升。",
    "東京は日本の首都です。ガギグ ぱぴぷ",
    "mixed 中文 and English混在text",
    "𠀀𠮷 rare ideographs 㐂",
    "สวัสดีชาวโลก",
    "Việt Nam: Hà Nội, Đà Nẵng, Huế",
    "😀 smile 👍🏽 thumbs 👩‍👩‍👧 family 🇫🇷 flag",
    "I ❤️ it ™ © ® № ½ ² ℃ ﬁne",
    "don't can't it's y'all rock'n'roll",
    "wait... what?! (no) [yes] {maybe} <tag> #hash @you $5 50% a&b a|b ~x ^y `z` \\w",
    "“curly” ‘quotes’ — dashes – and … ellipsis «guillemets» ¿qué? ¡sí!",
    "3.14159 1,000,000 1e-12 0x1F 12:30 2024-02-29 +49-30-1234567",
    "https://example.org/a/b?c=d&e=f#g mailto:nobody@example.org",
    "def f(x): return x**2 + 1  # comment",
    "snake_case camelCase kebab-case dot.ted C++ C# .NET",
    "pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism",
    "w" * 100,
    "zero\u200bwidth soft\u00adhyphen no\u00a0break thin\u2009space \ufeffmark",
    "null\x00 bell\x07 escape\x1b delete\x7f control\x9f",
    "replacement \ufffd and private \ue000 use",
    "line one\nline two\r\nline three\ttabbed",
    "[CLS] inside [SEP] a text [MASK] with [UNK] and [PAD]",
    "[cls] [Sep] [MASK]ed un[MASK] ##ing ##",
    "[unused1] <s> </s> <|endoftext|>",
    "𝓕𝓪𝓷𝓬𝔂 ｆｕｌｌｗｉｄｔｈ ①②③ Ⅳ",
    "buffalo " * 40,
    "a b c d e f g h i j k l m n o p q r s t u v w x y z " * 4,
)


def hard_to_split() -> tuple[str, ...]:
    """Return texts for two readings of one tokenizer to agree on: the hard ones, and pairs of neighbours
    between which ways to split a text differ.
    """
    blanks = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n", "\n ", "\u00a0", "\u3000", "\u2581"]
    words = ["a", "Word", "ß", "é", "e\u0301", "日", "ж", "7", "42", "345", "12345678", "½", "٣", "_", "##x"]
    marks = [".", "...", "'", "\u2019", '"', "-", "--", "/", "$", "(", "!?", "</s>", "😀", "\u200b"]
    endings = [f"{mark}{end}" for mark in "'\u2019" for end in ("s", "T", "re", "LL", "d", "M", "x")]
    pieces = [*blanks, *words, *marks]
    return (
        *HARD_TEXTS,
        *("".join(pair) for pair in product(pieces, pieces)),
        *(f"{word} {mark}{word}{mark} {word}" for word, mark in product(words, marks)),
        *(f"{start}{blank}{end}" for start, blank, end in product(("a", "7", "."), blanks, ("b", "8", "!"))),
        *(f"{word}{ending} {word}" for word, ending in product(("I", "it", "IT", "7"), endings)),
    )
