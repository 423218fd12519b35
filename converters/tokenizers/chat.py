"""A chat: what a tokenizer's own template makes of one message of a user, or of a conversation."""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from itertools import takewhile
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from epmq_export.errors import InputError, first_line
from epmq_export.models.samples import Passage, Sample

_DAY = re.compile(r"""strftime_now\(\s*(['"])([^'"]*)\1\s*\)""")
ANSWERS = "assistant"
"""The role of the model itself in a conversation."""

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
    return _rendered(tokenizer, directory, [{"role": "user", "content": text}], answers=True)


def as_passage(
    tokenizer: PreTrainedTokenizerBase, directory: Path, messages: Sequence[Mapping[str, Any]]
) -> Sample:
    """Return a conversation as the model reads it: where it ends with an answer, that behind all before it;
    else a prompt that is to be answered. Raises InputError as `as_chat` does.
    """
    *before, last = messages
    if last["role"] != ANSWERS or not before:
        return _rendered(tokenizer, directory, messages, answers=last["role"] != ANSWERS)
    whole = _rendered(tokenizer, directory, messages, answers=False)
    prompt = _rendered(tokenizer, directory, before, answers=True)
    shared = len(prompt)
    if not whole.startswith(prompt):
        # Some templates write the beginning of an answer to come otherwise than that of one that is there.
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False)))
    context, answer = whole[:shared], whole[shared:]
    if _last_line(last["content"]) not in answer:
        raise InputError(
            f"{directory}: its chat template puts the answer {last['content'][:60]!r} not behind all else, "
            "expected it there"
        )
    return Passage(context, answer)


def _rendered(
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    messages: Sequence[Mapping[str, Any]],
    *,
    answers: bool,
) -> str:
    """Return a chat; with `answers`, up to where the model's answer begins."""
    if not tokenizer.chat_template:
        raise InputError(
            f"{directory}: its tokenizer has no chat template, expected one, since a task is a chat"
        )
    text = messages[-1]["content"]
    # Templates may write thoughts before an answer anew.
    told = text.strip() if answers else _last_line(text)
    try:
        chat = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=_on_one_day(tokenizer.get_chat_template()),
            tokenize=False,
            add_generation_prompt=answers,
        )
    except Exception as error:  # A template raises whatever it likes.
        raise InputError(
            f"{directory}: its chat template fails on the text {text[:60]!r} ({first_line(error)})"
        ) from None
    if not isinstance(chat, str) or told not in chat:
        raise InputError(
            f"{directory}: its chat template leaves out the text {text[:60]!r}, expected it in the chat"
        )
    begin = tokenizer.bos_token
    if begin and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:
        return chat.removeprefix(str(begin))
    return chat


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2]


def _on_one_day(template: str) -> str:
    """Return a template with the day of `TODAY` wherever it asks for the day of the clock.

    Raises ValueError where it asks in another way than by a format that stands in it.
    """
    told = _DAY.sub(lambda found: f"{found[1]}{TODAY.strftime(found[2])}{found[1]}", template)
    if re.search(r"strftime_now\s*\(", told):
        raise ValueError("it asks for the day by a format that is computed, expected one that stands in it")
    return told
