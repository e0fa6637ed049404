"""The parameters of every method as frozen classes, and the one strict converter that makes them from JSON."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NewType, TypeVar, get_args

import attrs
import cattrs
from cattrs.errors import AttributeValidationNote, ClassValidationError, ForbiddenExtraKeysError

from supervisor.conversation.ids import ConversationId, parse_conversation_id
from supervisor.conversation.json import JsonObject
from supervisor.conversation.lifecycle import Status

MAX_LABELS: Final = 64
MAX_LABEL_NAME: Final = 128
MAX_LABEL_VALUE: Final = 1024
MAX_IDS: Final = 1000

Seconds = NewType("Seconds", float)
ShortText = NewType("ShortText", str)
Labels = NewType("Labels", Mapping[str, str])
Json = NewType("Json", Mapping[str, Any])  # Any: cattrs cannot resolve the recursive JsonObject; see `as_json`
Limit = NewType("Limit", int)
Tail = NewType("Tail", int)
Sequence63 = NewType("Sequence63", int)


@attrs.define(eq=False, slots=False)
class InvalidParams(Exception):
    """A parameter is unknown, missing or wrong. `path` names it (`timeout`, `labels.x`, `spec.memory`)."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path} {self.message}"


@attrs.frozen
class NoParams:
    """A method without parameters."""


@attrs.frozen
class Authenticate:
    """`authenticate`."""

    token: str = attrs.field(repr=False)


@attrs.frozen
class Start:
    """`conversation.start`; `spec` is still to be parsed, by the config's own rules."""

    id: ConversationId | None = None
    agent: ShortText | None = None
    spec: Json | None = None
    request: Json | None = attrs.field(default=None, repr=False)
    labels: Labels | None = None
    wait: bool = True
    timeout: Seconds | None = None
    idempotency_key: ShortText | None = None


@attrs.frozen
class Target:
    """A method that only names a conversation."""

    id: ConversationId


@attrs.frozen
class TimedCommand:
    """A command with a deadline."""

    id: ConversationId
    timeout: Seconds | None = None


@attrs.frozen
class ForcibleCommand:
    """A command with a deadline that can be forced."""

    id: ConversationId
    force: bool = False
    timeout: Seconds | None = None


@attrs.frozen
class ListConversations:
    """`conversation.list`."""

    status: tuple[Status, ...] = ()
    labels: Labels | None = None
    limit: Limit = Limit(100)
    cursor: str | None = None


@attrs.frozen
class Logs:
    """`conversation.logs`."""

    id: ConversationId
    tail: Tail = Tail(100)
    follow: bool = False


@attrs.frozen
class History:
    """`conversation.history`."""

    id: ConversationId
    since: Sequence63 = Sequence63(0)
    limit: Limit = Limit(100)


@attrs.frozen
class Subscribe:
    """`events.subscribe`; `ids` None is every conversation."""

    since: Sequence63 | None = None
    ids: tuple[ConversationId, ...] | None = None
    snapshot: bool = False


@attrs.frozen
class Unsubscribe:
    """`events.unsubscribe`."""

    subscription: ShortText


_Params = TypeVar("_Params")


def structure_params(params: JsonObject, kind: type[_Params]) -> _Params:
    """Make a method's parameters from JSON.

    Raises:
        InvalidParams: one of them is unknown, missing or wrong; the first is named.
    """
    try:
        return _CONVERTER.structure(params, kind)
    except ClassValidationError as error:
        raise _first_failure(error) from None


def as_json(value: Json | None) -> JsonObject:
    """The JSON object that a caller gave, or an empty one."""
    return value or {}


def _first_failure(error: ClassValidationError) -> InvalidParams:
    cause = error.exceptions[0]
    if isinstance(cause, ForbiddenExtraKeysError):
        return InvalidParams(min(cause.extra_fields)[:64], "is not a parameter of this method")
    name = next(note.name for note in cause.__notes__ if isinstance(note, AttributeValidationNote))
    if isinstance(cause, InvalidParams):
        return InvalidParams(name + cause.path, cause.message)
    return InvalidParams(name, "is required")


def _flag(value: object, _: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidParams("", "must be true or false")
    return value


def _text(value: object, _: object) -> str:
    if not isinstance(value, str):
        raise InvalidParams("", "must be a string")
    return value


def _text_of(least: int, most: int) -> Callable[[object, object], str]:
    def structure(value: object, _: object) -> str:
        if not isinstance(value, str) or not least <= len(value) <= most:
            raise InvalidParams("", f"must be a string of {least} to {most} characters")
        return value

    return structure


def _number_of(least: int, most: int) -> Callable[[object, object], int]:
    def structure(value: object, _: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InvalidParams("", f"must be a whole number from {least} to {most}")
        return value

    return structure


def _seconds(value: object, _: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
        return float(min(value, _LONGEST))
    raise InvalidParams("", "must be a number of seconds greater than 0")


def _id(value: object, _: object) -> ConversationId:
    try:
        return parse_conversation_id(_text(value, _))
    except ValueError as error:
        raise InvalidParams("", f"is not an id: {error}") from None


def _status(value: object, _: object) -> Status:
    if isinstance(value, str) and value in Status.__members__:
        return Status[value]
    raise InvalidParams("", f"must be one of {', '.join(Status)}")


def _object(value: object, _: object) -> JsonObject:
    if not isinstance(value, dict):
        raise InvalidParams("", "must be an object")
    return value


def _labels(value: object, _: object) -> Mapping[str, str]:
    labels = _object(value, _)
    if len(labels) > MAX_LABELS:
        raise InvalidParams("", f"must have at most {MAX_LABELS} entries")
    checked: dict[str, str] = {}
    for name, text in labels.items():
        if not 1 <= len(name) <= MAX_LABEL_NAME:
            raise InvalidParams(f".{name[:MAX_LABEL_NAME]}", f"must have a name of 1 to {MAX_LABEL_NAME} characters")
        if "\0" in name or (isinstance(text, str) and "\0" in text):
            # SQLite's JSON ends a text there, so one label could be found as another.
            raise InvalidParams(f".{name}", "must not contain NUL")
        if not isinstance(text, str) or len(text) > MAX_LABEL_VALUE:
            raise InvalidParams(f".{name}", f"must be a string of at most {MAX_LABEL_VALUE} characters")
        checked[name] = text
    return checked


def _list_of(kind: Any) -> Callable[[object, object], tuple[object, ...]]:  # noqa: ANN401 - cattrs hands types as Any
    element = get_args(kind)[0]

    def structure(value: object, _: object) -> tuple[object, ...]:
        if not isinstance(value, list) or len(value) > MAX_IDS:
            raise InvalidParams("", f"must be a list of at most {MAX_IDS}")
        return tuple(_element(index, item, element) for index, item in enumerate(value))

    return structure


def _element(index: int, item: object, kind: type) -> object:
    try:
        return _CONVERTER.structure(item, kind)
    except InvalidParams as error:
        raise InvalidParams(f"[{index}]{error.path}", error.message) from None


_LONGEST: Final = 1e9
_CONVERTER: Final = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
_CONVERTER.register_structure_hook(bool, _flag)
_CONVERTER.register_structure_hook(str, _text)
_CONVERTER.register_structure_hook(Status, _status)
_CONVERTER.register_structure_hook(ConversationId, _id)
_CONVERTER.register_structure_hook(Seconds, _seconds)
_CONVERTER.register_structure_hook(ShortText, _text_of(1, 256))
_CONVERTER.register_structure_hook(Labels, _labels)
_CONVERTER.register_structure_hook(Json, _object)
_CONVERTER.register_structure_hook(Limit, _number_of(1, 1000))
_CONVERTER.register_structure_hook(Tail, _number_of(0, 10_000))
_CONVERTER.register_structure_hook(Sequence63, _number_of(0, 2**63 - 1))
_CONVERTER.register_structure_hook_factory(lambda kind: getattr(kind, "__origin__", None) is tuple, _list_of)
