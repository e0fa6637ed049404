"""HTTP clients that know nothing of ours: httpx over TCP or a Unix socket."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import h11
import httpx2 as httpx
import trio

from supervisor.control.address import ControlAddress, TcpAddress, UnixAddress
from supervisor.http.server import HttpServer
from tests.control.clients import dial
from tests.control.scripted_service import ScriptedService

KEY = "the-api-key-of-the-tests"
PATIENCE = 20.0
"""Seconds of real time after which a test that waits has failed."""


@attrs.frozen
class Running:
    """A server that listens."""

    server: HttpServer
    service: ScriptedService
    address: ControlAddress


def http_client(address: ControlAddress, key: str | None = KEY, **headers: str) -> httpx.AsyncClient:
    """A client of the address that shows the key."""
    shown = {} if key is None else {"X-API-Key": key}
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(address, UnixAddress):
        transport = httpx.AsyncHTTPTransport(uds=str(address.path))
        return httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers={**shown, **given}, timeout=PATIENCE
        )
    return httpx.AsyncClient(base_url=f"http://{address.authority}", headers={**shown, **given}, timeout=PATIENCE)


def error_of(answer: httpx.Response) -> Mapping[str, Any]:
    """The `error` of an answer, which is all that its body has."""
    body = answer.json()
    assert set(body) == {"error"}
    assert isinstance(body["error"], dict)
    return body["error"]


@attrs.frozen
class SentEvent:
    """A server-sent event."""

    name: str
    id: int
    data: Any


class EventSource:
    """What a browser's EventSource makes of a stream: events, one after the other, until it ends as it should."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)
        self._text = ""

    async def ask(self, target: str, headers: Mapping[str, str]) -> None:
        """Send the request, and see that it is answered with a stream."""
        request = h11.Request(method="GET", target=target, headers=list({"Host": "localhost", **headers}.items()))
        await self._stream.send_all(self._http.send(request) + self._http.send(h11.EndOfMessage()))
        answer = await self._next()
        assert isinstance(answer, h11.Response)
        assert answer.status_code == 200
        assert dict(answer.headers)[b"content-type"].startswith(b"text/event-stream")

    def __aiter__(self) -> "EventSource":
        return self

    async def __anext__(self) -> SentEvent:
        await trio.lowlevel.checkpoint()
        while True:
            await trio.lowlevel.checkpoint()
            while "\n\n" not in self._text:
                await self._read_more()
            block, _, self._text = self._text.partition("\n\n")
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if fields:
                return SentEvent(fields.get("event", "message"), int(fields["id"]), json.loads(fields["data"]))

    async def comment(self) -> None:
        """Wait for a comment, which is all that comes."""
        await trio.lowlevel.checkpoint()
        while ":\n\n" not in self._text:
            await self._read_more()
        assert self._text.strip(":\n") == ""
        self._text = ""

    async def _read_more(self) -> None:
        event = await self._next()
        if not isinstance(event, h11.Data):
            assert isinstance(event, h11.EndOfMessage)
            raise StopAsyncIteration
        self._text += bytes(event.data).decode()

    async def _next(self) -> object:
        await trio.lowlevel.checkpoint()
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(bytes(await self._stream.receive_some()))
        return event


@asynccontextmanager
async def event_source(address: ControlAddress, query: str = "", **headers: str) -> AsyncIterator[EventSource]:
    """An open stream of events; header names are written with underscores."""
    shown = {"X-API-Key": KEY} | {name.replace("_", "-"): value for name, value in headers.items()}
    if isinstance(address, TcpAddress):
        shown["Host"] = address.authority
    with trio.fail_after(PATIENCE):
        async with await dial(address) as stream:
            source = EventSource(stream)
            await source.ask(f"/api/events{query}", shown)
            yield source
