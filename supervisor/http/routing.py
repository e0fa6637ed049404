"""How routes read their bodies: as strictly as the control channel reads its frames."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from supervisor.control.wire import parse_json
from supervisor.conversation.json import JsonValue


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
