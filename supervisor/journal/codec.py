"""How records and events are written down as JSON text, and read again."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TypeVar, get_args

import attrs
from cattrs import Converter

from supervisor.conversation.alerts import StandingAlert
from supervisor.conversation.events import Alert, Event, ExecutionChanged, RecordedEvent, StatusChanged
from supervisor.conversation.json import JsonObject
from supervisor.conversation.record import ConversationRecord

_T = TypeVar("_T")


def format_time(at: datetime) -> str:
    """RFC 3339 in UTC with microseconds."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """The time that `format_time` wrote."""
    return datetime.fromisoformat(text)


def _make_converter() -> Converter:
    converter = Converter(omit_if_default=True)
    converter.register_unstructure_hook(datetime, format_time)
    converter.register_structure_hook(datetime, lambda text, _: parse_time(text))
    converter.register_structure_hook_func(lambda kind: kind == JsonObject, lambda value, _: value)
    return converter


_converter = _make_converter()


def encode_record(record: ConversationRecord) -> str:
    """A record as JSON text; fields at their default are left out, so that old rows gain new fields."""
    return _dump(_converter.unstructure(record))


def decode_record(text: str) -> ConversationRecord:
    """The record that `encode_record` wrote."""
    return _converter.structure(json.loads(text), ConversationRecord)


def encode_alert(alert: StandingAlert) -> str:
    """An alert as JSON text."""
    return _dump(_converter.unstructure(alert))


def decode_alert(text: str) -> StandingAlert:
    """The alert that `encode_alert` wrote."""
    return _converter.structure(json.loads(text), StandingAlert)


def decode_event(event: RecordedEvent) -> Event:
    """What happened, as it was before it was written down; fields that an older version did not know are as absent.

    Raises:
        cattrs.BaseValidationError: its data is not of this version's kind.
    """
    fields = json.loads(event.data)
    fields |= {name: fields.pop(told) for name, told in _TOLD_AS.get(event.kind, {}).items() if told in fields}
    decoded: Event = _converter.structure(fields, _EVENTS[event.kind])
    return decoded


_EVENTS: Final = {event.kind: event for event in get_args(Event)}
_TOLD_AS: Final[Mapping[str, Mapping[str, str]]] = {
    StatusChanged.kind: {"before": "from"},
    ExecutionChanged.kind: {"before": "from"},
    Alert.kind: {"about": "kind"},
}


def encode_event_data(event: Event) -> str:
    """An event's fields as the protocol sends them: absent ones left out, `before` called `from`, `about` `kind`."""
    fields = attrs.asdict(event, filter=lambda _, value: value is not None, value_serializer=_plain)
    if isinstance(event, StatusChanged | ExecutionChanged):
        fields.pop("before", None)
        fields = {"from": event.before, "to": event.to, **fields}
    if isinstance(event, Alert):
        fields = {"id": event.id, "kind": fields.pop("about"), **fields}
    return _dump(fields)


def _plain(_event: object, _field: object, value: _T) -> _T | str:
    return format_time(value) if isinstance(value, datetime) else value


def _dump(value: Mapping[str, object]) -> str:
    # In ASCII, so that no text that JSON can hold is one that the database, or UTF-8, cannot.
    return json.dumps(value, separators=(",", ":"))
