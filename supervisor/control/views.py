"""What clients see: records, events and errors as the JSON text of `protocol.md`.

Everything is written once, straight to text. The session key is written by `encode_access` alone.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

import attrs
import trio

from supervisor.control.service import (
    AgentAccess,
    ConversationPage,
    DaemonInfo,
    Stopped,
    Subscription,
)
from supervisor.control.wire import Failure, RpcCode, encode_json, encode_notification, repair_characters
from supervisor.conversation.errors import ConversationdError
from supervisor.conversation.events import RecordedEvent
from supervisor.conversation.json import JsonObject, JsonValue
from supervisor.conversation.record import ConversationRecord, SandboxRef
from supervisor.conversation.record import Failure as RecordFailure

PROTOCOL: Final = "conversation-control.v1"
_CACHED_EVENTS: Final = 1024
_CACHED_TIMES: Final = 4096
_ENCODED_AT_ONCE: Final = 100


def encode_conversation(record: ConversationRecord) -> str:
    """The Conversation object."""
    return encode_json(_conversation(record))


def encode_stopped(stopped: Stopped) -> str:
    """The Conversation object with `was_running`."""
    return encode_json({**_conversation(stopped.record), "was_running": stopped.was_running})


def encode_page(page: ConversationPage) -> str:
    """One page of `conversation.list`."""
    return f'{{"items":{encode_conversations(page.items)},"next_cursor":{encode_json(page.next_cursor)}}}'


def encode_conversations(records: Sequence[ConversationRecord]) -> str:
    """A list of Conversation objects."""
    return f"[{','.join(map(encode_conversation, records))}]"


async def encode_snapshot(records: Sequence[ConversationRecord]) -> str:
    """The same of any number of them: a few at a time, so that nobody else waits until all of them are written."""
    parts = []
    for start in range(0, len(records), _ENCODED_AT_ONCE):
        await trio.lowlevel.checkpoint()
        parts.append(",".join(map(encode_conversation, records[start : start + _ENCODED_AT_ONCE])))
    await trio.lowlevel.checkpoint()
    return f"[{','.join(parts)}]"


def encode_access(access: AgentAccess) -> str:
    """The answer of `conversation.connect`, the only one with the session key."""
    return encode_json({"url": access.url, "session_api_key": access.session_api_key})


def encode_info(info: DaemonInfo) -> str:
    """The answer of `daemon.info`."""
    view: dict[str, JsonValue] = {
        "name": "conversationd",
        "version": info.version,
        "protocol": PROTOCOL,
        "pid": info.pid,
        "started_at": format_time(info.started_at),
        "uptime": info.uptime,
        "instance": info.instance,
        "engine": attrs.asdict(info.engine),
        "capacity": attrs.asdict(info.capacity),
        "seq": info.seq,
    }
    return encode_json(view)


@lru_cache(maxsize=_CACHED_EVENTS)
def encode_event(event: RecordedEvent) -> str:
    """The event object. The text is kept, so that any number of subscribers share one encoding."""
    data = repair_characters(event.data) if event.data.isascii() else encode_json(json.loads(event.data))
    head: dict[str, JsonValue] = {
        "seq": event.seq,
        "at": format_time(event.at),
        "conversation": event.conversation,
        "kind": event.kind,
    }
    return f'{encode_json(head)[:-1]},"data":{data}}}'


@lru_cache(maxsize=_CACHED_EVENTS)
def encode_event_frame(subscription: str, event: RecordedEvent) -> str:
    """The whole `event` notification: the same text object for all connections that named it alike."""
    return encode_notification("event", f'{{"subscription":"{subscription}","event":{encode_event(event)}}}')


def encode_events(events: Sequence[RecordedEvent]) -> str:
    """The answer of `conversation.history`."""
    return f'{{"events":[{",".join(map(encode_event, events))}]}}'


def encode_lines(lines: Sequence[str]) -> str:
    """The answer of `conversation.logs`."""
    return encode_json({"lines": list(lines)})


async def encode_opened(subscription: str, opened: Subscription) -> str:
    """The answer of `events.subscribe`."""
    await trio.lowlevel.checkpoint()
    records = opened.conversations
    snapshot = "" if records is None else f',"conversations":{await encode_snapshot(records)}'
    return f'{{"subscription":"{subscription}","seq":{opened.seq}{snapshot}}}'


def encode_log_opened(subscription: str) -> str:
    """The answer of `conversation.logs` with `follow`."""
    return encode_json({"subscription": subscription, "lines": []})


def encode_log_line(subscription: str, line: str) -> str:
    """The whole `log.line` notification."""
    return encode_notification("log.line", encode_json({"subscription": subscription, "line": line}))


def encode_log_end(subscription: str, error: ConversationdError | None) -> str:
    """The whole `log.end` notification; `error` says why the lines end if not with the sandbox."""
    params: dict[str, JsonValue] = {"subscription": subscription}
    if error is not None:
        params["error"] = {"code": error.code, "message": error.message}
    return encode_notification("log.end", encode_json(params))


def failure_of(error: ConversationdError) -> Failure:
    """An error of ours as the `error` member of an answer."""
    return Failure(RpcCode.APPLICATION, error.message, {"code": error.code, **error.data})


@lru_cache(maxsize=_CACHED_TIMES)
def format_time(at: datetime) -> str:
    """RFC 3339, UTC, microseconds. Kept, because the same records are shown again and again."""
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _optional_time(at: datetime | None) -> str | None:
    return None if at is None else format_time(at)


def _conversation(record: ConversationRecord) -> dict[str, JsonValue]:
    return {
        "id": record.id,
        "agent": record.agent,
        "status": record.status,
        "phase": record.phase,
        "execution_status": record.execution_status,
        "observed": record.observed,
        "incarnation": record.incarnation,
        "restarts": record.restarts,
        "next_restart_at": _optional_time(record.next_restart_at),
        "sandbox": None if record.sandbox is None else _sandbox(record.sandbox),
        "error": None if record.error is None else _failure(record.error),
        "labels": dict(record.labels),
        "created_at": format_time(record.created_at),
        "updated_at": format_time(record.updated_at),
        "last_active_at": format_time(record.last_active_at),
    }


def _sandbox(sandbox: SandboxRef) -> JsonObject:
    return {
        "provider": sandbox.provider,
        "id": sandbox.id,
        "name": sandbox.name,
        "url": sandbox.url,
        "image": sandbox.image,
    }


def _failure(failure: RecordFailure) -> JsonObject:
    view: dict[str, JsonValue] = {
        "code": failure.code,
        "message": failure.message,
        "at": format_time(failure.at),
    }
    if failure.exit_code is not None:
        view["exit_code"] = failure.exit_code
    if failure.oom_killed is not None:
        view["oom_killed"] = failure.oom_killed
    if failure.log_tail:
        view["log_tail"] = list(failure.log_tail)
    return view
