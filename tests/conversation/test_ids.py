"""Conversation ids: what is taken from outside, and what is made."""

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.conversation.ids import new_conversation_id, parse_conversation_id


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True))
def test_parse_conversation_id_takes_what_the_protocol_allows(text: str) -> None:
    """A legal id comes back as it is."""
    assert parse_conversation_id(text) == text


@given(st.text(max_size=80))
def test_parse_conversation_id_takes_nothing_else(text: str) -> None:
    """Any text is either legal by the protocol's own words, or refused."""
    legal = 1 <= len(text) <= 64 and text[0] not in "_-" and re.sub("[A-Za-z0-9_-]", "", text) == ""
    try:
        parse_conversation_id(text)
    except ValueError:
        assert not legal
    else:
        assert legal


@pytest.mark.parametrize("text", ["", "-a", "_a", "a/b", "../a", "a.b", "a\n", "a\0", "\u00e9", "\u0661", "a" * 65])
def test_parse_conversation_id_refuses_what_paths_and_names_would_suffer_from(text: str) -> None:
    """The error says what an id looks like."""
    with pytest.raises(ValueError, match=r"1 to 64 of \[A-Za-z0-9_-\]"):
        parse_conversation_id(text)


def test_new_conversation_id_is_a_legal_random_uuid() -> None:
    """A made id can be parsed, is a UUID of version 4, and never the same twice."""
    made = {new_conversation_id() for _ in range(100)}
    assert len(made) == 100
    assert {uuid.UUID(parse_conversation_id(each)).version for each in made} == {4}
