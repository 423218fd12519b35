"""The probes of the graph check: samples on which a wrong tokenizer, processor or graph shows.

llama.cpp's WordPiece differs from the tokenizers that it imitates in the following, whatever a file says
(measured with xllamacpp 2026.10.11549 on every code point below U+30000, between two letters). Texts with
these cannot agree, so the probes have none:

- A word of more than 100 characters is one [UNK] in a BERT tokenizer. llama.cpp has no such limit and gives
  its pieces.
- Where accents are stripped, a BERT tokenizer takes Hangul syllables apart into their letters. llama.cpp does
  not.
- llama.cpp strips spacing vowel signs (category Mc: Devanagari, Bengali, Tamil, Burmese and others) and
  enclosing marks (Me) with the accents. A BERT tokenizer keeps them.
- Vertical tab, form feed and U+0085 are white space in llama.cpp. A BERT tokenizer removes them and joins
  what they part.
- U+2581 marks the beginning of a word in GGUF's vocabulary.
- Some punctuation, marks and format characters are known to only one of the two Unicode tables (such as
  U+061D, U+2E43 and U+1ABF).
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from epmq_export.models.family import Family
from epmq_export.models.hard_texts import HARD_TEXTS
from epmq_export.models.samples import Pair, Passage, Picture, Pixels, Sample

# The targets are longer than the part that is fed token by token behind a cache. The last one is far longer
# than the distances that have buckets of their own in T5's bias.
PASSAGES: tuple[Passage, ...] = (
    Passage("Is the sky blue? Answer yes or no.", " yes"),
    Passage("translate English to German: How old are you?", " Wie alt sind Sie?"),
    Passage("The cat sat on the", " mat, as it does on most days, and slept."),
    Passage("日本 12 4", " été 日本 3,14"),
    Passage("buffalo " * 20, " buffalo" * 60),
)


# The second text is now the longer and now the shorter one, and both are cut.
PAIRS: tuple[Pair, ...] = (
    Pair("Is the sky blue?", "It is blue on most days, and red in the evening."),
    Pair("buffalo " * 20, "Buffalo?"),
    Pair("The cat sat on the mat.", ""),
    Pair("été 日本 3,14 " * 60, "3.14 日本 été " * 90),
)


def probes(family: Family) -> Sequence[Sample]:
    """Return pictures or texts, as the family reads them.

    A language model gets no empty text, because nothing can follow a text without tokens. It also gets
    passages, because the decoder of a model of two halves reads only one token of a text alone. Classifiers
    get pairs of texts, too.
    """
    if family.images is not None:
        return hard_pictures()
    if family.language is not None:
        return [*(text for text in HARD_TEXTS if text), *PASSAGES]
    reads = family.classifiers
    return [*HARD_TEXTS, *PAIRS] if reads is not None and reads.heads and reads.pairs else HARD_TEXTS


def hard_pictures() -> list[Picture]:
    """Return flat pictures, noise, patterns finer than a patch and finer than resizing keeps, and shapes far
    from a square.
    """
    random = np.random.Generator(np.random.PCG64(0))
    rows, columns = np.mgrid[0:96, 0:128]
    stripes = np.where((rows // 2 + columns // 2) % 2 == 0, 255, 0)
    drawn = {
        "black": np.zeros((64, 64, 3)),
        "white": np.full((64, 64, 3), 255),
        "red": np.broadcast_to([255, 0, 0], (32, 48, 3)),
        "noise": random.integers(0, 256, (224, 224, 3)),
        "coarse noise": random.integers(0, 256, (7, 7, 3)).repeat(32, 0).repeat(32, 1),
        "grey noise": random.integers(0, 256, (80, 80, 1)).repeat(3, 2),
        "slope": np.stack((rows * 2, columns, 255 - columns), 2),
        "stripes": np.stack((stripes, stripes, 255 - stripes), 2),
        "one pixel": np.full((1, 1, 3), 127),
        "wide": random.integers(0, 256, (9, 300, 3)),
        "tall": random.integers(0, 256, (300, 11, 3)),
        "large": np.stack((np.add.outer(np.arange(700) // 3, np.arange(500) // 4) % 256,) * 3, 2),
    }
    return [_drawn(name, np.ascontiguousarray(pixels.astype(np.uint8))) for name, pixels in drawn.items()]


def _drawn(name: str, pixels: Pixels) -> Picture:
    return Picture(f"the picture {name!r}", hashlib.sha256(pixels.tobytes()).hexdigest(), lambda: pixels)
