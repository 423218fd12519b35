"""multilingual-e5-small is read from the file of its package."""

import struct
from pathlib import Path

import gguf
import numpy as np
import torch
from tokenizers.normalizers import Precompiled
from transformers import BertConfig, BertModel

from benchmarks.experts import e5
from converters import open_family
from formats.gguf.spec import spec_of

LETTERS = {"\t": " ", "\x01": "", "½": "1⁄2", "ﬁ": "fi", "ﬂ": "fl", "𝟘": "0", "É": "É"}
PIECES = [
    ("<s>", 0.0),
    ("<pad>", 0.0),
    ("</s>", 0.0),
    ("<unk>", 0.0),
    ("▁", -3.5),
    ("a", -4.25),
    ("<mask>", 0.0),
]


def test_letters_are_replaced_as_the_table_says() -> None:
    table = Precompiled(e5.charsmap(LETTERS))
    for letter, target in LETTERS.items():
        assert table.normalize_str(f"x{letter}y") == f"x{target}y"
    assert table.normalize_str("¼ ffi ➀") == "¼ ffi ➀"


def written(path: Path, model: BertModel) -> Path:
    """Write a model as the package has it: matrices as Q4_0, all else in float32."""
    config, state = model.config, model.state_dict()
    sizes = (
        config.hidden_size,
        config.num_hidden_layers,
        config.num_attention_heads,
        config.intermediate_size,
        config.vocab_size,
        config.max_position_embeddings,
        config.type_vocab_size,
    )
    blob = [piece.encode() for piece, _ in PIECES]
    offsets = np.cumsum([0, *map(len, blob)]).astype("<u4").tobytes()
    letters = b"".join(
        struct.pack(f"<IB{len(target)}I", ord(letter), len(target), *map(ord, target))
        for letter, target in LETTERS.items()
    )
    head = struct.pack(
        "<4sI7ifi5iQ", b"E5S1", 1, *sizes, 1e-12, 32, len(PIECES), 0, 2, 1, 3, sum(map(len, blob))
    )
    head += offsets + struct.pack(f"<{len(PIECES)}f", *(score for _, score in PIECES)) + b"".join(blob)
    head += struct.pack("<iI", len(LETTERS), len(letters)) + letters
    names = {
        "word_embeddings.weight": "emb.word",
        "position_embeddings.weight": "emb.pos",
        "token_type_embeddings.weight": "emb.type",
        "LayerNorm.weight": "emb.ln.w",
        "LayerNorm.bias": "emb.ln.b",
    }
    tensors = {there: state[f"embeddings.{here}"].numpy() for here, there in names.items()}
    for here, there in e5._LAYER.items():
        for part in ("weight", "bias"):
            tensors[f"l0.{there}.{part[0]}"] = state[f"encoder.layer.0.{here}.{part}"].numpy()
    raw = {
        name: gguf.quantize(value, gguf.GGMLQuantizationType.Q4_0).tobytes()
        if value.ndim == 2 and name not in ("emb.pos", "emb.type")
        else value.tobytes()
        for name, value in tensors.items()
    }
    begin = len(head) + 4 + sum(len(name) + 23 for name in raw)
    index, data = struct.pack("<i", len(raw)), b""
    for name, content in raw.items():
        index += struct.pack("<H", len(name)) + name.encode()
        index += struct.pack("<BIQQ", 0, tensors[name].size, begin + len(data), len(content))
        data += content
    path.write_bytes(head + index + data)
    return path


def test_a_file_of_the_package_becomes_a_model_that_is_read(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 96}
    config = BertConfig(vocab_size=len(PIECES) + 1, max_position_embeddings=16, **sizes)
    model = BertModel(config, add_pooling_layer=False)
    e5.write(tmp_path / "model", written(tmp_path / "file.bin", model))
    found = BertModel.from_pretrained(tmp_path / "model", add_pooling_layer=False).state_dict()
    assert found.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert (found[name] - value).abs().max() <= value.abs().max() / 7
    assert torch.equal(found["embeddings.LayerNorm.weight"], model.embeddings.LayerNorm.weight)
    family = open_family(tmp_path / "model")
    (batch,) = family.batches(["a\ta ½"], 1)
    assert batch["input_ids"].tolist() == [[0, 4, 5, 4, 5, 4, 3, 2]]
    assert spec_of(family).metadata["tokenizer.ggml.model"] == "t5"
    assert family.zero_shot is not None and family.zero_shot.prompts.default == "query: "
