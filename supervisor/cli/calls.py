"""Calls whose answers are wanted as the daemon wrote them."""

from contextlib import AbstractAsyncContextManager
from typing import Final

from supervisor.cli.asks import Settings
from supervisor.control.client import ControlClient, connect
from supervisor.control.client_views import Event, UnexpectedAnswer, read_view
from supervisor.conversation.json import JsonObject, JsonValue

_PAGE: Final = 200


def dial(settings: Settings, *, within: float = 10.0) -> AbstractAsyncContextManager[ControlClient]:
    """Connect as the global options say; the token, if any, was read before."""
    return connect(settings.address, settings.token, within=within)


async def call(client: ControlClient, method: str, params: JsonObject) -> JsonValue:
    """Ask, and answer with the raw result; parameters that are None are left out."""
    # The client's typed calls drop what they do not know, and `--json` promises the protocol's JSON, all of it.
    return await client.call(method, _given(params))


async def list_all(client: ControlClient, params: JsonObject) -> list[JsonValue]:
    """Ask for every page of `conversation.list`, and answer with the raw conversations."""
    answer = await call(client, "conversation.list", {**params, "limit": _PAGE})
    items = _items(answer, "items")
    while isinstance(answer, dict) and answer.get("next_cursor") is not None:
        answer = await call(client, "conversation.list", {**params, "limit": _PAGE, "cursor": answer["next_cursor"]})
        items += _items(answer, "items")
    return items


async def history_all(client: ControlClient, conversation: str, since: int) -> list[JsonValue]:
    """Ask for all of a conversation's history after `since`, and answer with the raw events."""
    events: list[JsonValue] = []
    while True:
        params: JsonObject = {"id": conversation, "since": since, "limit": _PAGE}
        page = _items(await call(client, "conversation.history", params), "events")
        events += page
        if len(page) < _PAGE:
            return events
        since = read_view(page[-1], Event).seq


def _items(answer: JsonValue, name: str) -> list[JsonValue]:
    items = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(items, list):
        raise UnexpectedAnswer(f"the daemon's answer has no list of {name}")
    return items


def _given(params: JsonObject) -> JsonObject:
    return {name: value for name, value in params.items() if value is not None}
