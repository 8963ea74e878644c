"""Usernames that are made of what an identity provider calls somebody."""

import re

from hypothesis import given
from hypothesis import strategies as st

from domain.rules.usernames import USERNAME, usernames

MARK = "0123456789abcdef" * 2


@given(st.text(max_size=300))
def test_each_is_a_username_that_people_could_have_registered(name: str) -> None:
    made = list(usernames(name, MARK))
    assert 2 <= len(made) <= 3
    assert all(re.fullmatch(USERNAME, username) for username in made)
    assert len(set(made)) == len(made)


@given(st.from_regex(USERNAME, fullmatch=True, alphabet=st.characters(codec="ascii")))
def test_a_username_stays_as_it_is(name: str) -> None:
    assert next(usernames(name, MARK)) == name


@given(st.text(max_size=300))
def test_a_mark_tells_two_of_one_name_apart(name: str) -> None:
    first, second = (list(usernames(name, mark)) for mark in (MARK, MARK[::-1]))
    assert not {*first[-2:]} & {*second[-2:]}
