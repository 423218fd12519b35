"""What a model is called and where it comes from."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epmq_export.tensors.about import About

words = st.text(min_size=1, max_size=12)


@given(
    st.builds(
        About,
        name=words,
        base_models=st.lists(words, max_size=3).map(tuple),
        license=st.none() | words,
        languages=st.lists(words, max_size=3).map(tuple),
        pipeline_tag=st.none() | words,
    )
)
def test_what_is_written_is_read_again(about: About) -> None:
    assert About.of(about.as_dict()) == about


@given(words)
def test_a_stem_is_a_name_that_every_disk_and_url_takes(name: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?", About(name).stem)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("all-MiniLM-L6-v2-merged", None), ("my model/v1", "my-model-v1"), ("../up", "up"), ("模型", "model")],
)
def test_stems(name: str, stem: str | None) -> None:
    assert About(name).stem == (stem or name)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "name is missing, expected a text"),
        ({"name": ""}, "name is '', expected a text"),
        ({"name": "a", "base_models": "org/a"}, "base_models is 'org/a', expected a list of hub ids"),
        ({"name": "a", "languages": ["en", 3]}, r"languages is \['en', 3\], expected a list of codes"),
        ({"name": "a", "author": "b"}, "found the key author, expected one of name, base_models, license"),
    ],
)
def test_what_is_never_written_is_refused(content: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        About.of(content)
