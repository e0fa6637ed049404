"""What all V1 routes share: how they refuse, and the query parameters that several of them take."""

import re
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeAlias

import trio
from fastapi import Query
from pydantic import BeforeValidator, WithJsonSchema
from starlette.requests import Request
from starlette.responses import Response

from supervisor.control.wire import encode_json
from supervisor.http.failures import HANDLED, Answer, answer_to
from supervisor.http.models_v1 import MOST_IDS, V1ErrorAnswer
from supervisor.http.openapi import Responses, refusals
from supervisor.http.routing import StrictRoute

_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?", re.IGNORECASE)


class V1Route(StrictRoute):
    """A route that says what is wrong in the words of its clients, too.

    OpenHands' app server, a FastAPI application, answers `{"detail": ...}`; its front end of late 2025 shows a string
    that it finds as `error` or as `message` (`retrieve-axios-error-message.ts`).
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


def v1_refusals(*statuses: int) -> Responses:
    """The answers of a V1 route that are no success."""
    return refusals(*statuses, body=V1ErrorAnswer)


def _moment(value: object) -> datetime:
    """Read what browsers' `toISOString` writes; without an offset it is UTC.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        raise ValueError("must be a time like 2025-11-22T12:30:15.000Z")
    moment = datetime.fromisoformat(value.upper())
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


Moment: TypeAlias = Annotated[
    datetime, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})
]
PageSize: TypeAlias = Annotated[int, Query(ge=1, le=MOST_IDS, description="A page with a filter may have fewer.")]
