"""What decoders that embed texts call their tensors."""

from collections.abc import Mapping
from typing import Any

from converters.decoder.names import HEAD
from converters.decoder.names import naming as of_a_decoder
from epmq_export.tensors.modules import is_dense
from epmq_export.tensors.naming import Naming


def naming(config: Mapping[str, Any]) -> Naming:
    """Return the names of the language model without its head, which no embedding reads, and those of
    sentence-transformers' Dense modules.
    """
    decoder = of_a_decoder(config)
    return Naming(decoder.plain, lambda name: is_dense(name) or (name != HEAD and decoder.needs(name)))
