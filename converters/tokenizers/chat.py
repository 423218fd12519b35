"""A prompt as a chat: what a tokenizer's own template makes of one message of a user."""

import re
from datetime import date
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from epmq_export.errors import InputError, first_line

_DAY = re.compile(r"""strftime_now\(\s*(['"])([^'"]*)\1\s*\)""")
TODAY = date(2024, 7, 26)
"""The day that templates are told, so that a recipe gives the same bytes on every day. It is the one that
Llama 3's template says where it is told none.
"""


def as_chat(tokenizer: PreTrainedTokenizerBase, directory: Path, text: str) -> str:
    """Return the prompt of a chat in which a user says `text` and the model is to answer.

    The library renders the template in jinja2's sandbox, where it reaches neither files nor Python. The text
    is a value that it puts somewhere, and is never run. A token that begins a chat is left to the tokenizer
    where that puts one itself. Raises InputError where the tokenizer has no template, or one that fails or
    leaves the text out.
    """
    if not tokenizer.chat_template:
        raise InputError(
            f"{directory}: its tokenizer has no chat template, expected one, since a task is a chat"
        )
    try:
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}],
            chat_template=_on_one_day(tokenizer.get_chat_template()),
            tokenize=False,
            add_generation_prompt=True,
        )
    except Exception as error:  # A template raises whatever it likes.
        raise InputError(
            f"{directory}: its chat template fails on the text {text[:60]!r} ({first_line(error)})"
        ) from None
    if not isinstance(chat, str) or text.strip() not in chat:
        raise InputError(
            f"{directory}: its chat template leaves out the text {text[:60]!r}, expected it in the chat"
        )
    begin = tokenizer.bos_token
    if begin and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:
        return chat.removeprefix(str(begin))
    return chat


def _on_one_day(template: str) -> str:
    """Return a template with the day of `TODAY` wherever it asks for the day of the clock.

    Raises ValueError where it asks in another way than by a format that stands in it.
    """
    told = _DAY.sub(lambda found: f"{found[1]}{TODAY.strftime(found[2])}{found[1]}", template)
    if re.search(r"strftime_now\s*\(", told):
        raise ValueError("it asks for the day by a format that is computed, expected one that stands in it")
    return told
