"""The one table from what goes wrong to what an HTTP client is told: status, body and headers.

A body is `{"error": {"code", "message", ...}}`, with the fields that the error has on the control channel, too.
"""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Final

import attrs
import structlog
import trio
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from supervisor.control.messages import InvalidParams
from supervisor.control.wire import encode_json
from supervisor.conversation.errors import CapacityExceeded, ConversationdError, ErrorCode, InternalError
from supervisor.conversation.json import JsonValue
from supervisor.http.connection import ClientGone
from supervisor.incidents import report_incident

STATUS_OF: Final[Mapping[ErrorCode, HTTPStatus]] = {
    ErrorCode.UNAUTHORIZED: HTTPStatus.UNAUTHORIZED,
    ErrorCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ErrorCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ErrorCode.INVALID_TRANSITION: HTTPStatus.CONFLICT,
    ErrorCode.CONFLICT: HTTPStatus.CONFLICT,
    ErrorCode.HISTORY_GONE: HTTPStatus.GONE,
    ErrorCode.CAPACITY_EXCEEDED: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.BUSY: HTTPStatus.TOO_MANY_REQUESTS,
    ErrorCode.ENGINE_UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.SHUTTING_DOWN: HTTPStatus.SERVICE_UNAVAILABLE,
    ErrorCode.TIMEOUT: HTTPStatus.GATEWAY_TIMEOUT,
    ErrorCode.SANDBOX_FAILED: HTTPStatus.INTERNAL_SERVER_ERROR,
    ErrorCode.IMAGE_UNAVAILABLE: HTTPStatus.INTERNAL_SERVER_ERROR,
    ErrorCode.AGENT_REFUSED: HTTPStatus.INTERNAL_SERVER_ERROR,
    ErrorCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}
INVALID: Final = "invalid_params"
HANDLED: Final = (
    ConversationdError,
    InvalidParams,
    RequestValidationError,
    WebSocketRequestValidationError,
    HTTPException,
)
"""What a route raises to refuse a request; anything else is a bug."""

_RETRY_SOON: Final = {ErrorCode.BUSY: 1, ErrorCode.SHUTTING_DOWN: 5}
_log: Final = structlog.stdlib.get_logger("supervisor.http")


@attrs.frozen
class Answer:
    """What a client is told of a failure."""

    status: HTTPStatus
    error: Mapping[str, JsonValue]
    headers: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def body(self) -> bytes:
        """The answer's body, as JSON; nothing where there is no error."""
        return b"" if not self.error else encode_json({"error": dict(self.error)}).encode()

    def response(self) -> Response:
        """The whole answer as an ASGI application."""
        return Response(self.body, self.status.value, dict(self.headers), "application/json")


def say(status: HTTPStatus, code: str, message: str, **headers: str) -> Answer:
    """An answer without further fields; `headers` are named with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"code": code, "message": message}, named)


def invalid(path: str, message: str) -> Answer:
    """A parameter is unknown, missing or wrong."""
    text = f"{path} {message}".strip()
    return Answer(HTTPStatus.BAD_REQUEST, {"code": INVALID, "message": text, "path": path})


def answer_to(error: Exception) -> Answer:
    """What a client is told of an exception; one that ends as 500 is logged, and its traceback only there."""
    match error:
        case InvalidParams():
            return invalid(error.path, error.message)
        case RequestValidationError() | WebSocketRequestValidationError():
            return _validation(error.errors())
        case HTTPException():
            return _routing(error)
        case ConversationdError() if STATUS_OF[error.code] is not HTTPStatus.INTERNAL_SERVER_ERROR:
            return Answer(STATUS_OF[error.code], _told(error), _retry(error))
    return _internal(error)


def _internal(error: Exception) -> Answer:
    """The one way to a 500: the log has it as an incident, and whoever hears of incidents does."""
    if isinstance(error, InternalError):
        return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, _told(error))  # reported where it happened
    if isinstance(error, ConversationdError):
        incident = report_incident("http.request_failed", f"http: {error.code}", error=error).incident
        return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, {**_told(error), "incident": incident})
    return _internal(report_incident("http.request_failed", "http", error=error))


def _told(error: ConversationdError) -> Mapping[str, JsonValue]:
    return {"code": error.code, "message": error.message, **error.data}


def _retry(error: ConversationdError) -> Mapping[str, str]:
    if isinstance(error, CapacityExceeded):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    seconds = _RETRY_SOON.get(error.code)
    return {} if seconds is None else {"Retry-After": str(seconds)}


def _validation(errors: Sequence[object]) -> Answer:
    first = errors[0]
    assert isinstance(first, dict)  # noqa: S101 - pydantic's own
    place, *names = first["loc"]
    path = "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names).removeprefix(".")
    if place == "body" and not path:
        return invalid("", "The body must be a JSON object, sent as Content-Type: application/json.")
    return invalid(path, str(first["msg"]))


def _routing(error: HTTPException) -> Answer:
    status = HTTPStatus(error.status_code)
    if status is HTTPStatus.BAD_REQUEST:
        return invalid("", error.detail)
    code = status.name.lower()
    return Answer(status, {"code": code, "message": error.detail}, error.headers or {})


async def handle(_: HTTPConnection, error: Exception) -> Response:
    """Answer what a route raised: the handler that the application knows for every error of ours."""
    await trio.lowlevel.checkpoint()
    return answer_to(error).response()


def _is_departure(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_departure, error.exceptions))
    return isinstance(error, ClientGone | WebSocketDisconnect)


class Containment:
    """The boundary around the application: whatever else leaves it is a bug of ours, and this one request's."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with 500 what raises; what raises after its answer began only ends."""
        begun = False
        await trio.lowlevel.checkpoint()

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception as error:  # noqa: BLE001 - the boundary
            if _is_departure(error):
                _log.debug("http.client_gone", reason=str(error))
                return
            answer = answer_to(error)
            if not begun and scope["type"] == "http":
                await answer.response()(scope, receive, send)
