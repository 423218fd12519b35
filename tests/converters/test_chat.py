"""A prompt in the tokenizer's own chat template: what it is, and what it cannot do."""

from pathlib import Path

import pytest
import yaml

from converters import open_family
from converters.tokenizers.chat import as_chat
from epmq_export.errors import InputError, RecipeError
from epmq_export.pipeline.tasks import load_tasks
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
