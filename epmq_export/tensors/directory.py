"""The files of a model's directory, by the names that Hugging Face and this project give them. Nothing here
reads a tensor.
"""

from pathlib import Path

from epmq_export.errors import InputError
from epmq_export.files import read_json

CONFIG = "config.json"
QUANTIZATION = "quantization_config"
"""The key of config.json that says how the weights beside it are quantised."""
MODEL, PACKED = "model", "packed"
"""What the files of weights are called. Loaders of whole models look for the first, and would take codes for
weights.
"""
WEIGHTS, SHARD_INDEX = f"{MODEL}.safetensors", f"{MODEL}.safetensors.index.json"
PACKED_WEIGHTS, PACKED_SHARD_INDEX = f"{PACKED}.safetensors", f"{PACKED}.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_PICKLE = "adapter_model.bin"
PACKED_INDEX = "packed.json"
CARD = "README.md"
"""The model card, whose front matter the hub reads."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
"""The endings of files that are pickles. Opening a pickle runs the code in it."""


def pickle_refusal(name: str) -> str:
    """Return the sentence that refuses a pickle, without the directory that it lies in."""
    return (
        f"{name} is a pickle, which can run any program when it is opened, so it is refused; "
        "save the model as safetensors (in transformers and peft: save_pretrained) where you trust it"
    )


def read_shard_index(index: Path) -> dict[str, str]:
    """Return the shard of each tensor, by the tensor's name, as `model.safetensors.index.json` says.

    Raises InputError, naming the tensor, where the file is no such index, names a file of another directory,
    or names a shard that is not there. The shards themselves are not opened.
    """
    placed = read_json(index).get("weight_map")
    if (
        not isinstance(placed, dict)
        or not placed
        or not all(isinstance(each, str) for each in placed.values())
    ):
        raise InputError(f"{index}: weight_map is {placed!r:.80}, expected an object from tensors to files")
    for name, shard in sorted(placed.items()):
        if shard in ("", ".", "..") or Path(shard).name != shard:
            raise InputError(
                f"{index}: tensor {name} is said to be in {shard!r}, expected a file of this directory"
            )
        if not (index.parent / shard).is_file():
            raise InputError(f"{index}: tensor {name} is said to be in {shard}, but that shard is missing")
    return placed


def require_in_shard(index: Path, shard: str, expected: set[str], held: set[str]) -> None:
    """Raise InputError where a shard holds none of the tensors that the index says are in it."""
    if missing := expected - held:
        raise InputError(
            f"{index}: tensor {min(missing)} is said to be in {shard}, but that shard has no such tensor"
        )
