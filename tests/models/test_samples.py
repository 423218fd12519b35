"""Samples drawn from data: distinct, in order, the same everywhere."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epmq_export.errors import InputError
from epmq_export.models.samples import (
    Pair,
    Passage,
    Picture,
    choose,
    digest,
    given_to_tokenizer,
    length,
    picture_of,
    text_of,
)

TEXTS = st.lists(st.text(max_size=3), max_size=30)


@given(TEXTS, st.integers(1, 40), st.integers(0, 5), st.randoms())
def test_a_sample_is_distinct_in_order_and_of_its_size(
    texts: list[str], count: int, seed: int, order: object
) -> None:
    distinct = list(dict.fromkeys(texts))
    found = choose(texts, count, seed)
    assert len(found) == min(count, len(distinct))
    assert found == [text for text in distinct if text in set(found)]
    assert set(found) <= set(choose(texts, count + 1, seed))
    assert set(choose(texts[::-1], count, seed)) == set(found)


def test_a_sample_is_the_same_everywhere_and_depends_on_the_seed() -> None:
    texts = [f"text {i}" for i in range(1000)]
    assert choose(texts, 4, 0) == ["text 236", "text 251", "text 266", "text 765"]
    assert len(set(choose(texts, 500, 0)) & set(choose(texts, 500, 1))) < 300
    # No stretch of the file is preferred.
    assert 200 < sum(text in set(texts[:500]) for text in choose(texts, 500, 2)) < 300


def picture(name: str) -> Picture:
    return Picture(name, hashlib.sha256(name.encode()).hexdigest(), lambda: np.zeros((1, 1, 3), np.uint8))


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(1, 10), st.sets(st.integers(0, 20)))
def test_what_is_not_usable_counts_as_not_there(names: list[int], count: int, bad: set[int]) -> None:
    pictures = [picture(str(name)) for name in names]
    found = choose(pictures, count, 3, lambda each: int(each.place) not in bad)
    assert found == choose([each for each in pictures if int(each.place) not in bad], count, 3)


def test_only_as_many_are_tried_as_are_needed() -> None:
    tried: list[str] = []
    choose(
        [picture(str(i)) for i in range(100)],
        5,
        0,
        lambda each: bool(tried.append(each.place)) or len(tried) != 2,
    )
    assert len(tried) == 6


def test_pictures_of_the_same_bytes_are_one() -> None:
    first, again = picture("a"), picture("a")
    assert [each.place for each in choose([first, again, picture("b")], 3, 0)] == ["a", "b"]
    assert digest(first) == first.digest and digest("a") == hashlib.sha256(b"a").hexdigest()
    assert length(first) == 0 and length("abc") == 3


def test_passages_differ_by_where_their_targets_begin() -> None:
    passages = [Passage("a", "b"), Passage("", "ab"), Passage("ab", "")]
    assert len({digest(passage) for passage in passages}) == 3 and {
        length(passage) for passage in passages
    } == {2}
    assert choose([*passages, Passage("a", "b")], 5, 0) == passages
    with pytest.raises(InputError, match=r"^found the passage 'a' \+ 'b', expected a text$"):
        text_of(passages[0])


def test_pairs_differ_by_where_their_second_texts_begin() -> None:
    pairs = [Pair("a", "b"), Pair("b", "a"), Pair("ab", ""), Pair("", "ab")]
    assert len({digest(sample) for sample in (*pairs, Passage("a", "b"), "ab")}) == 6
    assert {length(pair) for pair in pairs} == {2} and choose([*pairs, Pair("a", "b")], 5, 0) == pairs
    assert given_to_tokenizer(pairs[0]) == ("a", "b") and given_to_tokenizer("a") == "a"
    with pytest.raises(InputError, match=r"^found the pair 'a' and 'b', expected a text$"):
        text_of(pairs[0])


def test_a_model_is_given_what_it_reads() -> None:
    assert text_of("a") == "a" and picture_of(each := picture("a")) is each
    with pytest.raises(InputError, match=r"^found the picture a\.png, expected a text$"):
        text_of(picture("a.png"))
    with pytest.raises(InputError, match=r"^found the text 'x{60}', expected a picture$"):
        picture_of("x" * 100)
