"""How routes read their bodies, as strictly as the control channel reads its frames, and how they word refusals."""

from collections.abc import Callable, Coroutine
from typing import Any

import trio
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from supervisor.control.wire import encode_json, parse_json
from supervisor.conversation.json import JsonValue
from supervisor.http.failures import HANDLED, Answer, answer_to


class StrictRequest(Request):
    """A request whose JSON has finite numbers, whole characters and a bounded depth."""

    async def json(self) -> JsonValue:
        """Read the body.

        Raises:
            HTTPException: it is not that: 400.
        """
        body = await self.body()
        try:
            return parse_json(body.decode())
        except ValueError as error:
            raise HTTPException(400, f"the body is not JSON: {error}") from None


class StrictRoute(APIRoute):
    """A route that reads its body so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, given a strict request."""
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strict


class WordedRoute(StrictRoute):
    """A route that says what is wrong where its clients look for it, too.

    OpenHands' app server, a FastAPI application, answers `{"detail": ...}`, which clients of the hosted runtime show
    (`openhands/runtime/utils/request.py`); the front end of late 2025 shows a string that it finds as `error` or as
    `message` (`retrieve-axios-error-message.ts`).
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, which answers for its refusals itself."""
        handler = super().get_route_handler()

        async def wording(request: Request) -> Response:
            try:
                return await handler(request)
            except HANDLED as error:
                await trio.lowlevel.checkpoint()
                return _worded(answer_to(error))

        return wording


def _worded(answer: Answer) -> Response:
    message = answer.error["message"]
    body = encode_json({"error": dict(answer.error), "detail": message, "message": message})
    return Response(body, answer.status.value, dict(answer.headers), "application/json")
