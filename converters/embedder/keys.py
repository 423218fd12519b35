"""The keys of the config.json of decoders that embed texts, and what stands beside it, by what they are to a
merge.
"""

from dataclasses import replace

from converters.bert.same_sentence import require_same_sentence
from converters.decoder.keys import KEYS as _DECODER

KEYS = replace(
    _DECODER,
    # Nothing is answered, so nothing ends an answer; what ends a text is the tokenizer's.
    kept=frozenset(),
    describes=_DECODER.describes | _DECODER.kept,
    beside=(require_same_sentence,),
)
