"""The tokenizers of real models against llama.cpp, where `~/.cache/epmq/lm` has them."""

from pathlib import Path

import pytest

from epmq_export.models.tokenizer import fast_tokenizer
from tests.tiny import tokenizers as tiny

HERE = Path("~/.cache/epmq/lm").expanduser()


@pytest.mark.parametrize(
    ("name", "left_out"),
    [("smollm2", 0), ("gemma3", 0), ("flan-t5-small", 1500), ("multilingual-e5-small", 1300)],
)
def test_llama_cpp_gives_the_same_ids(name: str, left_out: int, tmp_path: Path) -> None:
    if not (HERE / name / "tokenizer.json").is_file():
        pytest.skip(f"needs the tokenizer of {name} in {HERE / name}")
    differing, excepted = tiny.compared(fast_tokenizer(HERE / name), tmp_path)
    assert not differing
    assert len(excepted) <= left_out
