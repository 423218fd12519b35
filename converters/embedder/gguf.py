"""How decoders that embed texts are laid out in GGUF: as their language models, with what is done with their
tokens.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from converters.bert.gguf import pooling_type
from converters.bert.sentence import Dense, Sentence
from converters.embedder.kinds import DENSE
from epmq_export.errors import InputError
from epmq_export.models.specs import GgufSpec, Metadata


def gguf_spec(language: GgufSpec, sentence: Sentence, width: int, directory: Path) -> GgufSpec:
    """Return the layout, given that of the language model without a head, of width `width`. Raises InputError
    for pooling and modules that llama.cpp has not.
    """
    architecture, dense = language.architecture, sentence.dense
    if architecture in DENSE and dense:
        _refuse_other_dense(dense, width, directory)
        sentence = replace(sentence, dense=())
    found: Metadata = {"pooling_type": pooling_type(sentence, directory), **_sizes(dense)}
    names = {f"{each.place}.linear.weight": f"dense_{i}.weight" for i, each in enumerate(dense, 2)}
    return replace(
        language,
        metadata={**{f"{architecture}.{key}": value for key, value in found.items()}, **language.metadata},
        names={**language.names, **names},
    )


def _sizes(dense: Sequence[Dense]) -> dict[str, int]:
    sizes = ((f"dense_{i}_feat", each) for i, each in enumerate(dense, 2))
    return {
        key: value
        for name, each in sizes
        for key, value in ((f"{name}_in", each.given), (f"{name}_out", each.made))
    }


def _refuse_other_dense(dense: Sequence[Dense], width: int, directory: Path) -> None:
    """Raise InputError for Dense modules that are not llama.cpp's: two products, of which the first is given
    the pooled row and the second makes one as wide.
    """
    plain = all(not each.bias and each.activation == "Identity" for each in dense)
    if not (plain and len(dense) == 2 and dense[0].given == dense[1].made == width):
        raise InputError(
            f"{directory}: found the modules {', '.join(each.place for each in dense)}, expected two Dense "
            f"without bias and activation, from {width} numbers and back: llama.cpp has no other; leave gguf "
            "out of export.formats"
        )
