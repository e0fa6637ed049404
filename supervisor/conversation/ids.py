"""Conversation ids: what a caller may choose, and how one is made."""

import re
import uuid
from typing import NewType

ConversationId = NewType("ConversationId", str)

_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def parse_conversation_id(text: str) -> ConversationId:
    """Check an id that came from outside.

    The alphabet is safe in container names, paths and labels as it stands, so nothing is ever escaped.

    Raises:
        ValueError: the text is not 1 to 64 of ``[A-Za-z0-9_-]`` starting with a letter or digit.
    """
    if not _PATTERN.fullmatch(text):
        raise ValueError("an id is 1 to 64 of [A-Za-z0-9_-], starting with a letter or digit")
    return ConversationId(text)


def new_conversation_id() -> ConversationId:
    """Make an id: a random UUID, which agent servers of version 1 can use as it is."""
    return ConversationId(str(uuid.uuid4()))
