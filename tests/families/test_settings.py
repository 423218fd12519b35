"""The keys of config.json, changed one by one: in an expert alone, and in a base with its experts. What is
neither refused nor told must change nothing, and what a base is opened with must be computed as transformers
computes it.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from transformers import CONFIG_MAPPING
from transformers.initialization import no_init_weights

from converters import FAMILIES, keys_of, open_family, require_same_settings
from converters.shared.keys import DESCRIBES
from epmq_export.errors import InputError
from epmq_export.models import reference
from epmq_export.models.family import Batch, Family, towers
from epmq_export.models.processor import load_processor, preprocess
from epmq_export.models.samples import Sample, picture_of
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.source import renamed
from formats.gguf.format import spec_of
from tests.families.conftest import Opened

CPU = torch.device("cpu")
# What only describes is changed all at once, but for what the library itself opens a model by.
TOGETHER = DESCRIBES - {
    *("architectures", "chunk_size_feed_forward", "dtype", "model_type", "pad_token_id", "return_dict"),
}
DESCRIBED = "all that describes"
Config = dict[str, Any]
TEXTS = ["a cat", "a dog and a cat"]
# Other values for keys whose own say nothing of what may stand there.
OTHERS: Mapping[str, list[object]] = {
    "hidden_act": ["relu", "gelu_new", "quick_gelu", "gelu"],
    "hidden_activation": ["relu", "gelu"],
    "feed_forward_proj": ["relu", "gated-gelu", "gated-silu"],
    "dense_act_fn": ["relu", "gelu"],
    "layer_types": [["full_attention"] * 6, ["sliding_attention"] * 6],
    "no_rope_layers": [[1] * 6, [0] * 6],
    "attn_logit_softcapping": [5.0],
    "final_logit_softcapping": [5.0],
    "sliding_window": [4, None],
    "model_type": [],
    "rope_type": ["linear", "dynamic", "yarn"],
}
# Keys that a config may have beside those that the library writes, in old spellings and new ones.
MORE: Mapping[str, list[Config]] = {
    "decoder": [
        {"rope_parameters": None, "rope_theta": 1e6, "rope_scaling": None},
        {"rope_parameters": None, "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
        {"partial_rotary_factor": 0.5},
        {"head_dim": 8},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0},
        {"rope_local_base_freq": 2e4},
        {"sliding_window_pattern": 2},
        {"no_rope_layer_interval": 2},
        {"query_pre_attn_scalar": 7},
    ],
    "bert": [{"position_embedding_type": "relative_key"}, {"is_decoder": True}],
    "modernbert": [
        {"layer_types": None, "global_attn_every_n_layers": 2},
        {"rope_parameters": None, "global_rope_theta": 1e4, "local_rope_theta": 1e3},
        {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"norm_bias": True},
    ],
    "t5": [{"scale_decoder_outputs": False}, {"tie_word_embeddings": False}, {"is_gated_act": True}],
    "vit": [{"use_swiglu_ffn": True}],
    "clip": [{"text_config": None, "text_config_dict": {"num_attention_heads": 2}}],
}


def changes(config: Config, inner: tuple[str, ...] = ()) -> Iterator[tuple[str, Config]]:
    """Give each key, dotted, with configs in which it alone is another."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            for name, changed in changes(value, (*inner, key)):
                yield name, {**config, key: changed}
            continue
        for other in OTHERS.get(key, others(value)):
            if other != value:
                yield ".".join((*inner, key)), {**config, key: other}


def described(config: Config) -> Config:
    """Return a config with other values for all that describes, in its parts, too."""

    def changed(key: str, value: Any, describes: bool) -> Any:
        describes = describes or key in TOGETHER
        if isinstance(value, dict) and value:
            return {name: changed(name, inner, describes) for name, inner in value.items()}
        return others(value)[0] if describes else value

    return {key: changed(key, value, False) for key, value in config.items()}


def others(value: object) -> list[object]:
    match value:
        case bool():
            return [not value]
        case int():
            return [2 * value or 3, value // 2]
        case float():
            return [3 * value or 0.5]
        case str():
            return [f"{value}x"]
        case list():
            return [value[::-1]]
    return [7, 0.5]


def configs(opened: Opened) -> Iterator[tuple[str, Config]]:
    """Give configs that differ from a model's in one key each, the library's defaults among them."""
    path = opened.directory / "config.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    whole = json.loads(CONFIG_MAPPING[stored["model_type"]].from_dict(stored).to_json_string(use_diff=False))
    whole |= {"architectures": stored["architectures"]}
    yield DESCRIBED, described(whole)
    for key, changed in changes(whole):
        if TOGETHER.isdisjoint(key.split(".")):
            yield key, changed
    for more in MORE.get(FAMILIES[stored["model_type"]], []):
        changed = {key: value for key, value in {**stored, **more}.items() if value is not None}
        if changed != stored:
            yield str(more), changed
    yield "a key of no model", {**stored, "no_such_key": 3}


def with_config(opened: Opened, place: Path, config: Config) -> Path:
    """Return the model at a place, which is its own, with another config in place of the last one."""
    if not place.exists():
        shutil.copytree(opened.directory, place)
    (place / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return place


# Keys by which the library reads weights otherwise. All others decide what is computed of them.
READ_BY = {"architectures", "dtype", "model_type", "tie_word_embeddings", "torch_dtype"}


def read_by(config: Config) -> list[object]:
    """Return what a config says of the reading of weights, and of that of its parts."""
    inner = [read_by(value) for _, value in sorted(config.items()) if isinstance(value, dict)]
    return [*((key, config[key]) for key in sorted(READ_BY & set(config))), *inner]


class Library:
    """Models as transformers opens them, by their config.json: an expert and a base of one config are the
    same, and each is opened once. Those of one model are kept, whose tests follow each other.

    Where a config says nothing else of how weights are read, its model is given those of the first one, which
    takes a third of the time.
    """

    def __init__(self) -> None:
        self._weights, self._models, self._read_by = b"", dict[str, Any](), list[object]()

    def open(self, directory: Path) -> Any:
        """Return the model, or None where the weights are not those of its config."""
        weights = (directory / "model.safetensors").read_bytes()
        if weights != self._weights:
            self._weights = weights
            self._models.clear()
        config = (directory / "config.json").read_text(encoding="utf-8")
        if config not in self._models:
            self._models[config] = self._opened(directory, json.loads(config))
        return self._models[config]

    def _opened(self, directory: Path, config: Config) -> Any:
        try:
            architecture = getattr(transformers, config["architectures"][0])
            if self._models and (first := self._first(architecture, config)) is not None:
                return self._again(first, config)
            if not self._models:
                self._read_by = read_by(architecture.config_class.from_dict(config).to_dict())
            model, info = architecture.from_pretrained(directory, output_loading_info=True)
        except Exception:  # the library raises whatever its modules raise
            return None
        wrong = any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        return None if wrong else model.eval()

    def _first(self, architecture: Any, config: Config) -> Any:
        """Return the model that was opened first, or None where another config has its weights read
        otherwise.
        """
        first = next(iter(self._models.values()))
        read = read_by(architecture.config_class.from_dict(config).to_dict())
        return first if type(first) is architecture and read == self._read_by else None

    def _again(self, first: Any, config: Config) -> Any:
        """Return a model of another config with the tensors of one, or None where it has others."""
        with no_init_weights():
            model = type(first)(first.config_class.from_dict(config))
        model.tie_weights()
        tensors, own = (
            [(name, each.shape) for name, each in it.state_dict().items()] for it in (first, model)
        )
        if tensors != own:
            return None
        model.load_state_dict(first.state_dict())
        return model.eval()


library = Library()


@torch.no_grad()
def computed(model: Any, family: Family, batch: Batch) -> torch.Tensor:
    """Return what the library's model gives for a family's batch, [rows, width]."""
    if "decoder_input_ids" in batch:
        given = {name: value for name, value in batch.items() if name != "read"}
        return torch.as_tensor(model(**given).logits[batch["read"].bool()])
    if "read" in batch:
        return torch.as_tensor(
            model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[batch["read"].bool()]
        )
    if family.name.startswith(("clip", "siglip")):
        which = "image" if "pixel_values" in batch else "text"
        return torch.as_tensor(getattr(model, f"get_{which}_features")(**batch).pooler_output)
    return family.output(model(**batch).last_hidden_state, batch)


def given(family: Family, opened: Opened) -> list[tuple[Family, Sequence[Sample]]]:
    """Return what each tower of a model is given."""
    return [*zip(towers(family), (opened.model.samples, TEXTS), strict=False)]


def outputs(
    directory: Path, family: Family, samples: Sequence[Sequence[Sample]]
) -> list[NDArray[np.float32]] | None:
    """Return what the library makes of a family's own batches, of each tower, or None."""
    model, found = library.open(directory), []
    if model is None:
        return None
    for tower, texts in zip(towers(family), samples, strict=True):
        (batch,) = tower.batches(texts, len(texts))
        try:
            found.append(computed(model, tower, batch).numpy())
        except Exception:  # the library raises whatever its modules raise
            return None
    return found


def as_made(opened: Opened, directory: Path) -> list[NDArray[np.float32]] | None:
    """Return what the library makes of the model's own batches by the config of a directory."""
    return outputs(directory, opened.family, [texts for _, texts in given(opened.family, opened)])


def near(one: list[NDArray[np.float32]], other: list[NDArray[np.float32]]) -> bool:
    return all(
        a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-4 * float(np.abs(b).max() + 1))
        for a, b in zip(one, other, strict=True)
    )


def tried_elsewhere(opened: Opened) -> bool:
    """Tell whether another kind that is run by the same code has the same keys, which are tried for it."""
    like = opened.model.like
    return like is not None and keys_of(like) is keys_of(opened.family.name)


def test_what_an_expert_alone_has_is_refused_or_told_or_changes_nothing(
    light: Opened, tmp_path: Path
) -> None:
    if tried_elsewhere(light):
        return
    as_it_is, wrong = as_made(light, light.directory), []
    assert as_it_is is not None
    said = {"refused": 0, "told": 0, "silent": 0}
    for key, config in configs(light):
        expert = with_config(light, tmp_path / "expert", config)
        try:
            told = require_same_settings(light.directory, expert, "the expert")
        except InputError as error:
            assert str(error).startswith(f"{expert / 'config.json'}: found ") and "\n" not in str(error)
            said["refused"] += 1
            continue
        said["told" if told else "silent"] += 1
        if told:
            assert all(line.startswith("the expert: config.json has ") for line in told)
            continue
        found = as_made(light, expert)
        assert key != DESCRIBED or found is not None
        if found is not None and not near(found, as_it_is):
            wrong.append((key, config))
    assert not wrong
    assert all(said.values()), said


def test_what_a_base_has_is_refused_or_computed_as_the_library_does(
    opened: Opened, light: Opened, tmp_path: Path
) -> None:
    if tried_elsewhere(light):
        return
    as_it_is, wrong = as_made(light, light.directory), []
    assert as_it_is is not None
    specs = gguf(opened.family)
    for key, config in configs(light):
        base = with_config(light, tmp_path / "base", config)
        try:
            family = open_family(base)
            samples = [[tower.truncate(text) for text in texts] for tower, texts in given(family, light)]
            source = renamed(open_checkpoint(base), family.canonical)
            found = [
                reference.outputs(tower, source, samples, CPU)
                for tower, samples in zip(towers(family), samples, strict=True)
            ]
        except InputError:
            continue
        expected = outputs(base, family, samples)
        if expected is None:
            continue  # of these weights the library makes no such model
        if not near(found, expected):
            wrong.append((key, "reference"))
        # Texts are cut to such windows, which then change nothing.
        window = family.name in ("mistral", "mixtral", "phi3") and "sliding_window" in key
        if window or near(expected, as_it_is) or specs is None:
            continue
        if light is not opened:
            whole = resized(config, light.directory, opened.directory)
            family = open_family(with_config(opened, tmp_path / "whole", whole))
        if gguf(family) == specs:
            wrong.append((key, "gguf"))
    assert not wrong


def resized(config: Config, light: Path, whole: Path) -> Config:
    """Return a config that was made of the light model's as one of the whole model's."""

    def moved(value: Any, few: Any, many: Any) -> Any:
        if isinstance(value, dict) and isinstance(few, dict) and isinstance(many, dict):
            return {key: moved(inner, few.get(key), many.get(key)) for key, inner in value.items()}
        return many if value == few and few is not None else value

    stored = (json.loads((place / "config.json").read_text(encoding="utf-8")) for place in (light, whole))
    return dict(moved(config, *stored))


def gguf(family: Family) -> object:
    """Return all that a GGUF file says of a model beside its tensors; None where it is written in none."""
    try:
        spec = spec_of(family)
    except InputError:
        return None
    constants = {name: value.tolist() for name, value in spec.constants.items()}
    return spec.metadata, spec.names, spec.offsets, spec.factors, constants


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_key_of_the_librarys_class_has_a_role(model_type: str) -> None:
    config = CONFIG_MAPPING[model_type]().to_dict()
    keys = keys_of(model_type)
    flat = [
        f"{key}.{inner}" if isinstance(value, dict) and key.endswith("_config") else key
        for key, value in config.items()
        for inner in (value if isinstance(value, dict) and key.endswith("_config") else [""])
    ]
    assert [key for key in flat if keys.role(key) == "unknown"] == []


def test_pictures_that_an_expert_takes_otherwise_are_refused(opened: Opened, tmp_path: Path) -> None:
    if opened.family.images is None:
        return
    name = "preprocessor_config.json"
    stored = json.loads((opened.directory / name).read_text(encoding="utf-8"))
    as_it_is, refused = pixels(opened.directory, opened), 0
    for key, settings in changes(stored):
        expert = with_config(
            opened, tmp_path / "expert", json.loads((opened.directory / "config.json").read_text())
        )
        (expert / name).write_text(json.dumps(settings))
        try:
            assert require_same_settings(opened.directory, expert, "the expert") == []
        except InputError as error:
            assert str(error).startswith(f"{expert}") and name in str(error) and "\n" not in str(error)
            refused += 1
            continue
        assert np.array_equal(pixels(expert, opened), as_it_is), key
    assert refused > 5


def pixels(directory: Path, opened: Opened) -> NDArray[np.float32]:
    pictures = [picture_of(sample) for sample in opened.model.samples]
    return preprocess(load_processor(directory), pictures)
