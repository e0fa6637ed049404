"""The agent server's JSON, translated once. Keys that we do not know are fine here: servers grow."""

import json
from typing import Any, Final, Literal, TypeVar

import attrs
from cattrs import Converter
from cattrs.errors import BaseValidationError

from supervisor.conversation.record import ExecutionStatus


class Garbled(Exception):
    """What came is not what the agent server says."""


@attrs.frozen
class ConversationInfo:
    """`GET /api/conversations/{id}`, and the value of a full state update."""

    execution_status: str

    @property
    def status(self) -> ExecutionStatus | None:
        """The execution status; None for a word that is not one of ours, such as `deleting`."""
        return ExecutionStatus(self.execution_status) if self.execution_status in _WORDS else None


@attrs.frozen
class StatusEvent:
    """A state update that tells the execution status; `full` when it is a snapshot of the whole state."""

    status: ExecutionStatus | None
    full: bool


@attrs.frozen
class _Message:
    source: str


@attrs.frozen
class MessagePage:
    """The newest message of a conversation, if it has one."""

    items: tuple[_Message, ...]

    @property
    def ends_with_user(self) -> bool:
        """Whether the user's message waits for an answer."""
        return bool(self.items) and self.items[0].source == "user"


@attrs.frozen
class _StateUpdate:
    kind: Literal["ConversationStateUpdateEvent"]
    key: Literal["full_state", "execution_status"]
    value: Any


_T = TypeVar("_T")
_WORDS: Final = frozenset(ExecutionStatus)
_converter: Final = Converter()


@_converter.register_structure_hook
def _text(value: object, _: type) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, not {type(value).__name__}")
    return value


def parse_conversation(body: bytes) -> ConversationInfo:
    """Read the answer of a call that tells about a conversation.

    Raises:
        Garbled: it is something else.
    """
    return parse_as(body, ConversationInfo)


def parse_message_page(body: bytes) -> MessagePage:
    """Read the answer of a search for messages.

    Raises:
        Garbled: it is something else.
    """
    return parse_as(body, MessagePage)


def parse_as(body: bytes, kind: type[_T]) -> _T:
    """Read an answer as a class of attributes.

    Raises:
        Garbled: it is something else.
    """
    try:
        return _converter.structure(json.loads(body), kind)
    except (ValueError, RecursionError, BaseValidationError) as error:
        raise Garbled(f"not a {kind.__name__}: {type(error).__name__}") from error


def parse_event(frame: str | bytes) -> StatusEvent | None:
    """Read a frame of the events socket; None for all that does not tell the execution status."""
    try:
        update = _converter.structure(json.loads(frame), _StateUpdate)
        if update.key == "execution_status":
            return StatusEvent(_converter.structure({"execution_status": update.value}, ConversationInfo).status, False)
        return StatusEvent(_converter.structure(update.value, ConversationInfo).status, True)
    except (ValueError, RecursionError, BaseValidationError):
        return None
