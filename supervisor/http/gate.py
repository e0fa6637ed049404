"""The gate before every HTTP route: `Host`, `Origin`, API key, and the request's body, within bounds.

Nothing behind it sees a request that was not let in. What it refuses it answers itself, and reads away what the client
still sends, so that the answer arrives.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, TypeAlias

import attrs
import structlog
import trio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from supervisor.http.connection import HttpLimits
from supervisor.http.failures import Answer, say
from supervisor.http.keys import ApiKeys

_METHODS: Final = "GET, POST, DELETE"
_HEADERS: Final = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-API-Key, X-Session-API-Key"
_EXPOSED: Final = "Retry-After"
_REMEMBER: Final = "600"

_log: Final = structlog.stdlib.get_logger("supervisor.http")


@attrs.frozen
class Policy:
    """Who may come in through one listener.

    `names` are the `Host` headers that mean it, in lower case, None where any will do (Unix sockets, which no browser
    reaches). `origins` are those whose pages may ask and read the answers.
    """

    names: frozenset[str] | None
    origins: frozenset[str]
    keys: ApiKeys


@attrs.frozen
class Admission:
    """A request that is let in. `cors` are the headers that its answer has for the page that asked."""

    cors: Mapping[str, str]


@attrs.frozen
class Refusal:
    """A request that is answered here: refused, or a browser's question whether it may ask."""

    answer: Answer
    cors: Mapping[str, str] = attrs.field(factory=dict)


Verdict: TypeAlias = Admission | Refusal


def judge(method: str, headers: Headers, policy: Policy) -> Verdict:
    """Decide about a request. Nothing else of it is looked at before its `Host` and `Origin` are right."""
    if policy.names is not None and _one(headers, "host").lower() not in policy.names:
        return Refusal(say(HTTPStatus.FORBIDDEN, "forbidden", "This Host is not one of the listener's own names."))
    if any(origin not in policy.origins for origin in headers.getlist("origin")):
        return Refusal(say(HTTPStatus.FORBIDDEN, "forbidden", "This Origin is not one of [http] cors_origins."))
    cors = _cors(headers)
    if method == "OPTIONS" and cors and "access-control-request-method" in headers:
        return Refusal(Answer(HTTPStatus.NO_CONTENT, {}), {**cors, **_PREFLIGHT})
    if not _shows_a_key(headers, policy.keys):
        return Refusal(_NO_KEY, cors)
    return Admission(cors)


def _cors(headers: Headers) -> Mapping[str, str]:
    origin = headers.get("origin")
    if origin is None:
        return {}
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _EXPOSED, "Vary": "Origin"}


def _shows_a_key(headers: Headers, keys: ApiKeys) -> bool:
    shown = [*headers.getlist("x-api-key"), *headers.getlist("x-session-api-key")]
    for value in headers.getlist("authorization"):
        scheme, _, key = value.partition(" ")
        if scheme.lower() == "bearer":
            shown.append(key.strip())
    return any(keys.match(key) for key in shown)


def _one(headers: Headers, name: str) -> str:
    values = headers.getlist(name)
    return values[0] if len(values) == 1 else ""


class Gate:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, policy: Policy, limits: HttpLimits) -> None:
        self._app = app
        self._policy = policy
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge a request, and pass it on, its body read, or answer it."""
        verdict = judge(scope.get("method", "GET"), Headers(scope=scope), self._policy)
        if isinstance(verdict, Refusal):
            status = verdict.answer.status.value
            if status != HTTPStatus.NO_CONTENT:
                _log.info("http.request_refused", status=status, reason=verdict.answer.error["message"])
            await _refuse(scope, receive, _adding(send, verdict.cors), verdict.answer)
            return
        adding = _adding(send, verdict.cors)
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        body = await self._read_body(receive)
        if isinstance(body, Answer):
            await _refuse(scope, receive, adding, body)
        elif body is not None:
            await self._app(scope, _replaying(body, receive), adding)

    async def _read_body(self, receive: Receive) -> bytes | Answer | None:
        """The whole body, or what is wrong with it; None if the client went away."""
        body = bytearray()
        with trio.move_on_after(self._limits.body):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if len(body) > self._limits.body_size:
                    return _TOO_LARGE
                if not message.get("more_body", False):
                    return bytes(body)
        return _TOO_SLOW


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Give the body that was read in one piece, and then what really comes: the client's going away."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        await trio.lowlevel.checkpoint()
        return pending.pop() if pending else await receive()

    return replay


def _adding(send: Send, headers: Mapping[str, str]) -> Send:
    extra = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]

    async def sending(message: Message) -> None:
        if message["type"].endswith("response.start"):
            message = {**message, "headers": [*message.get("headers", ()), *extra]}
        await send(message)

    return sending


async def _refuse(scope: Scope, receive: Receive, send: Send, answer: Answer) -> None:
    # What comes is read while we answer: who waits for a reader of its body does not read the answer, either.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_read_away, receive)
        await answer.response()(scope, receive, send)
        nursery.cancel_scope.cancel()


async def _read_away(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"].endswith("disconnect"):
            return


_NO_KEY: Final = say(
    HTTPStatus.UNAUTHORIZED,
    "unauthorized",
    "Show an API key as X-API-Key, X-Session-API-Key or Authorization: Bearer.",
    WWW_Authenticate="Bearer",
)
_TOO_LARGE: Final = say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", "The body is too large.", Connection="close")
_TOO_SLOW: Final = say(HTTPStatus.REQUEST_TIMEOUT, "too_slow", "The body did not come in time.", Connection="close")
_PREFLIGHT: Final = {
    "Access-Control-Allow-Methods": _METHODS,
    "Access-Control-Allow-Headers": _HEADERS,
    "Access-Control-Max-Age": _REMEMBER,
}
