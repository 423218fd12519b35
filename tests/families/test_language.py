"""What every family of language models answers to, and the others refuse."""

from typing import Any

import numpy as np
import pytest
import torch

from epmq_export.errors import InputError
from epmq_export.models import reference
from epmq_export.models.family import language_of
from epmq_export.models.greedy import answers
from epmq_export.models.samples import Passage, Question, Sample
from tests.families.conftest import Opened
from tests.families.models import ENDLESS
from tests.families.test_contract import CPU


def test_passages_end_and_are_said(opened: Opened) -> None:
    language = opened.family.language
    if language is None:
        with pytest.raises(InputError, match=r"answers nothing in words, expected a language model"):
            language_of(opened.family)
        return
    assert language.ends and all(isinstance(token, int) for token in language.ends)
    assert [block.name for block in (*language.encoder, *language.decoder)] == [
        block.name for block in opened.family.blocks
    ]
    passages = [sample for sample in opened.model.samples if isinstance(sample, Passage)]
    assert passages
    for passage in passages:
        targets = language.targets(passage)
        assert language.said(targets) == language.said([*targets, *language.ends]) == passage.target.strip()


@torch.no_grad()
def test_answers_grow_token_by_token(opened: Opened) -> None:
    family, texts = opened.family, [each for each in opened.model.samples if isinstance(each, str)]
    if family.language is None:
        with pytest.raises(InputError, match="answers nothing in words"):
            answers(family, opened.source, ["a"], 2, CPU)
        return
    found = answers(family, opened.source, texts, 5, CPU)
    ends = family.language.ends
    assert all(0 < len(each) <= 5 and not ends & {*each[:-1]} for each in found)
    assert all(len(each) == 5 or each[-1] in ends for each in found)
    # What is likeliest behind a text is what its own row says, and what behind the first token, the next.
    scores = reference.outputs(family, opened.source, texts, CPU)
    assert [each[0] for each in found] == scores.argmax(1).tolist()
    (batch,) = family.batches(texts, len(texts))
    grown = family.language.grown(batch, torch.tensor([each[:1] for each in found]))
    assert grown["read"].sum(1).tolist() == [1] * len(texts)
    asked = [Question(text, 5, tuple(ends)) for text in texts]
    rows_of = reference.outputs(family, opened.source, asked, CPU)
    np.testing.assert_array_equal(rows_of, [each.row(ids) for each, ids in zip(asked, found, strict=True)])


def test_samples_are_calibrated_on_as_passages_or_as_they_are(opened: Opened) -> None:
    if (language := opened.family.language) is None:
        return
    passage = Passage("it is", " good")
    given: list[Sample] = ["the cat sat", passage]
    text, kept = language.passages(opened.source, given, CPU)
    assert kept is passage
    assert text == given[0] or (isinstance(text, Passage) and text.context == given[0])


def test_an_endless_question_leaves_room_for_its_answer(opened: Opened) -> None:
    if opened.family.language is None:
        return
    family: Any = opened.family
    cut = family.truncate(Question(ENDLESS, 4, (0,)))
    assert isinstance(cut, Question) and cut.text and cut.limit == 4 and cut.ends == (0,)
    assert family.truncate(cut) == cut
