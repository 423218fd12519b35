"""The rotations of decoders' queries and keys."""

from pathlib import Path

import torch
from torch import Tensor, nn

from converters.decoder.kinds import Kind
from converters.shared.config import Config, no_config

LONG = "longrope"
"""The type of rotations that has other frequencies for long texts."""

SCALING = "attention_scaling"
"""The attribute of rotations that cosines and sines are multiplied by."""


class ShortTexts(nn.Module):
    """The rotations of texts that are no longer than those of the first training, which have one set of
    frequencies: the library tells texts apart at each call.
    """

    def __init__(self, frequencies: Tensor, scaling: float) -> None:
        super().__init__()
        self.register_buffer("inv_freq", frequencies, persistent=False)
        self.attention_scaling = scaling

    def forward(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, [batch, length, rotated], for positions [batch, length]."""
        angles = positions[..., None].float() * self.get_buffer("inv_freq").to(hidden.device)
        both = torch.cat((angles, angles), -1)
        return both.cos() * self.attention_scaling, both.sin() * self.attention_scaling


def rotations(path: Path, kind: Kind, config: Config) -> nn.Module:
    """Return the model's rotations; InputError where the config's settings of them are none."""
    try:
        made = kind.rotary(config)
    except Exception as error:  # the library raises whatever its formulas raise
        raise no_config(kind.name, path, error) from None
    if config.rope_parameters.get("rope_type") != LONG:
        return made
    return ShortTexts(made.get_buffer("inv_freq"), float(getattr(made, SCALING)))


def longest(config: Config) -> int:
    """Return the most tokens of a text that the model's rotations are these of."""
    lengths = [config.max_position_embeddings]
    if config.rope_parameters.get("rope_type") == LONG:
        lengths.append(config.rope_parameters["original_max_position_embeddings"])
    return int(min(lengths))


def rotated_width(config: Config, width: int) -> int:
    """Return how many numbers of a head of this width are rotated, as the library rounds their share."""
    return int(width * config.rope_parameters.get("partial_rotary_factor", 1.0))
