"""Transformers' classes by name, imported when they are asked for: a merge of one model needs no other's."""

from importlib import import_module

from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig


def config_class(model_type: str) -> type[PreTrainedConfig]:
    """Return the class of the configs with this `model_type`."""
    found: type[PreTrainedConfig] = CONFIG_MAPPING[model_type]
    return found


def module_class(model: str, name: str) -> type[nn.Module]:
    """Return a class out of the modules of the library's model, such as `LlamaDecoderLayer` of `llama`."""
    found: type[nn.Module] = getattr(import_module(f"transformers.models.{model}.modeling_{model}"), name)
    return found
