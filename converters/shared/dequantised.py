"""A family as an ordinary directory of Hugging Face, which any loader in PyTorch reads."""

from epmq_export.models.family import Export, Family


def dequantised(family: Family) -> Export:
    """Return the record of the format `safetensors`, which is written where it is asked for by name."""
    return Export(runtimes=("torch",), computed=lambda: family, by_default=False)
