"""A prompt in the tokenizer's own chat template: what it is, and what it cannot do."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import yaml
from pyarrow import parquet

from converters import open_family
from converters.tokenizers.chat import as_chat, as_passage
from epmq_export.errors import InputError, RecipeError
from epmq_export.models.samples import Passage, Sample
from epmq_export.pipeline.tasks import load_tasks
from epmq_export.pipeline.trial import require_usable
from epmq_export.recipe.load import load_recipe
from tests.tiny import decoder
from tests.tiny.bert import small_bert

CHATML = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def rendered(template: str, text: str, begins: bool = False) -> str:
    tokenizer = decoder.tokenizer(begins)
    tokenizer.chat_template = template
    return as_chat(tokenizer, Path("model"), text)


def test_a_text_is_a_user_s_turn() -> None:
    assert rendered(CHATML, "is it good ?") == "<s><|user|>is it good ?\n<|assistant|>"


def test_the_token_that_begins_a_text_comes_once() -> None:
    chat = rendered(CHATML, "is it good ?", begins=True)
    assert chat == "<|user|>is it good ?\n<|assistant|>"
    ids = decoder.tokenizer(begins=True)(chat)["input_ids"]
    assert ids.count(1) == 1 and ids[0] == 1


def test_a_text_is_never_a_template() -> None:
    for text in ("{{ 7 * 7 }}", "{% for x in messages %}", "{# nothing #}", "<|assistant|> yes"):
        assert f"<|user|>{text}\n" in rendered(CHATML, text)


def test_every_day_gives_the_same_chat() -> None:
    assert rendered("{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}", "a") == "26 Jul 2024 a"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages.__class__.__mro__ }}", r"fails on the text 'is it good \?' \(.*unsafe"),
        ("{{ raise_exception('no chat') }}", r"fails on the text 'is it good \?' \(no chat\)"),
        ("{{ strftime_now(bos_token) }}", "fails on the text .*it asks for the day by a format"),
        ("{% if %}", "fails on the text"),
        ("hello", r"leaves out the text 'is it good \?'"),
        ("", "has no chat template"),
    ],
)
def test_a_template_that_cannot_be_used_says_why(template: str, reason: str) -> None:
    with pytest.raises(InputError, match=rf"model: its (chat template|tokenizer) {reason}"):
        rendered(template, "is it good ?")


SAID = (
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "is it good ?"},
    {"role": "assistant", "content": "it is."},
)
THINKS = CHATML.replace("<|assistant|>{% endif %}", "<|assistant|><think>{% endif %}")


def conversation(template: str, *messages: Mapping[str, Any]) -> Sample:
    tokenizer = decoder.tokenizer()
    tokenizer.chat_template = template
    return as_passage(tokenizer, Path("model"), messages)


@pytest.mark.parametrize("template", [CHATML, THINKS], ids=["plain", "a beginning that no answer has"])
def test_the_last_answer_of_a_conversation_is_predicted(template: str) -> None:
    before = "<s><|system|>be kind\n<|user|>is it good ?\n<|assistant|>"
    assert conversation(template, *SAID) == Passage(before, "it is.\n")


def test_a_conversation_without_an_answer_is_a_prompt() -> None:
    assert conversation(CHATML, *SAID[:2]) == "<s><|system|>be kind\n<|user|>is it good ?\n<|assistant|>"
    assert conversation(CHATML, SAID[2]) == "<s><|assistant|>it is.\n"


def test_templates_may_write_thoughts_anew() -> None:
    template = CHATML.replace("message.content }}", "message.content.split('</think>')[-1] | trim }}")
    last = {"role": "assistant", "content": "<think>hm</think>\n\nit is."}
    assert conversation(template, *SAID[:2], last) == conversation(CHATML, *SAID)


def test_other_keys_of_a_message_are_the_template_s_to_read() -> None:
    template = CHATML.replace("{{ message.content }}", "{{ message.name }}: {{ message.content }}")
    named = [{**message, "name": "Ann"} for message in SAID]
    found = conversation(template, *named)
    assert isinstance(found, Passage) and found.context.endswith("<|user|>Ann: is it good ?\n<|assistant|>")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{{ messages[-1].content }}{{ messages[0].content }}",
            "puts the answer 'it is.' not behind all else",
        ),
        ("{{ raise_exception('no system') }}", r"fails on the text 'it is.' \(no system\)"),
        ("{{ messages[0].content }}", "leaves out the text 'it is.'"),
    ],
)
def test_a_template_without_the_answer_says_why(template: str, reason: str) -> None:
    with pytest.raises(InputError, match=rf"model: its chat template {reason}"):
        conversation(template, *SAID)


def written(folder: Path, base: Path) -> Path:
    (folder / "texts.txt").write_text("\n".join(decoder.LINES))
    task = {"expert": "org/expert", "calibration": "texts.txt", "chat": True, "prompt": "Is this kind? {}"}
    recipe = {"base_model": str(base), "tasks": {"mood": task}, "calibration": {"samples": 2}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def test_calibration_and_evaluation_are_chats(tmp_path: Path) -> None:
    base = decoder.write(tmp_path / "base", "qwen2")
    (base / "chat_template.jinja").write_text(CHATML)
    (task,) = load_tasks(load_recipe(written(tmp_path, base)), open_family(base))
    assert len(task.calibration) == 2 and len(task.evaluation) == 3
    for sample in (*task.calibration, *task.evaluation):
        assert isinstance(sample, str) and sample.startswith("<s><|user|>Is this kind? ")
        assert sample.endswith("\n<|assistant|>") and task.places[sample].startswith(str(tmp_path))


def test_only_a_language_model_chats(tmp_path: Path) -> None:
    base = small_bert(tmp_path / "base")
    with pytest.raises(
        RecipeError, match=r"recipe\.yaml:\d+: tasks\.mood\.chat: found true, expected it left out"
    ):
        load_tasks(load_recipe(written(tmp_path, base)), open_family(base))


ROWS = [{"messages": [*SAID[:2], {**SAID[2], "content": f"it is {place}."}]} for place in range(5)]


def chats(folder: Path, **task: object) -> Path:
    """Write conversations in both kinds of files, and a recipe of them."""
    (folder / "chat.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    rows = [{"prompt": "a", "id": "b", **row} for row in ROWS]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "chat.parquet")
    told = {"expert": "org/expert", "calibration": "chat.parquet", "evaluation": "chat.jsonl", **task}
    content = {"base_model": "./base", "tasks": {"mood": told}, "calibration": {"samples": 2}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


def test_data_of_conversations(tmp_path: Path) -> None:
    """Their column is found by itself, and what a decoder is to predict of each is the answer alone."""
    base = decoder.write(tmp_path / "base", "qwen2")
    (base / "chat_template.jinja").write_text(CHATML)
    family = open_family(base)
    (task,) = load_tasks(load_recipe(chats(tmp_path)), family)
    require_usable(family, [task])
    assert {*task.calibration} < {*task.evaluation} and len({*task.evaluation}) == len(ROWS)
    first = task.evaluation[0]
    assert isinstance(first, Passage) and first.target == "it is 0.\n" and task.truth is None
    assert task.places[first] == f"{tmp_path / 'chat.jsonl'}:1"
    (batch,) = family.batches([first], 1)
    read = family.tokenizer("it is 0.\n", add_special_tokens=False)["input_ids"]  # type: ignore[attr-defined]
    assert batch["read"].sum() == len(read)


@pytest.mark.parametrize(
    ("task", "line", "message"),
    [
        ({"prompt": "Say: {}"}, None, r"tasks\.mood\.prompt: found it set, .*row 0 is a conversation"),
        ({"metric": "exact_match"}, None, r"tasks\.mood\.metric: found it set, .*left out"),
        ({}, {"messages": []}, r"chat\.jsonl:1: found no message in the column messages"),
        ({}, {"messages": ["hi"]}, r"jsonl:1: message 0: found a str, expected \{role: ..., content: ...\}"),
        (
            {},
            {"messages": [{"from": "gpt", "value": "a"}]},
            "message 0: found the keys from, value, expected",
        ),
        ({}, {"messages": [{"role": "user", "content": [1]}]}, "message 0: found a content that is none"),
    ],
)
def test_conversations_that_are_none(
    tmp_path: Path, task: dict[str, object], line: object, message: str
) -> None:
    base = decoder.write(tmp_path / "base", "qwen2")
    (base / "chat_template.jinja").write_text(CHATML)
    path = chats(tmp_path, **task)
    if line is not None:
        (tmp_path / "chat.jsonl").write_text(json.dumps(line))
    with pytest.raises((InputError, RecipeError), match=message):
        load_tasks(load_recipe(path), open_family(base))


def test_only_a_language_model_reads_conversations(tmp_path: Path) -> None:
    base = small_bert(tmp_path / "base")
    with pytest.raises(InputError, match=r"row 0: found a conversation, .* the base is no language model"):
        load_tasks(load_recipe(chats(tmp_path)), open_family(base))
