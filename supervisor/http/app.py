"""The ASGI application: every router, and what is common to all. A new client's routes are one line in here."""

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Final

import trio
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from supervisor import __version__
from supervisor.control.methods import SpecParser
from supervisor.control.service import ConversationService
from supervisor.conversation.json import JsonObject
from supervisor.http.failures import HANDLED, Containment, handle
from supervisor.http.openapi import allowed_methods, describe, operation_id
from supervisor.http.rest import ConversationRoutes
from supervisor.http.runtime_api import RuntimeRoutes
from supervisor.http.streams import EventRoutes
from supervisor.http.v1_conversations import AppConversationRoutes
from supervisor.http.v1_sandboxes import SandboxRoutes

_PREFIXES: Final = ("/conversations", "/api/conversations")


def make_app(
    service: ConversationService,
    parse_spec: SpecParser,
    ending: trio.Event,
    keep_alive: float,
    agent_request: Callable[[], JsonObject],
) -> ASGIApp:
    """The routes over one service. Streams of events end when `ending` is set; `keep_alive` bounds their silence.

    `agent_request` says what lies under the request of every start over the V1 routes.
    """
    app = FastAPI(
        title="conversationd",
        version=__version__,
        description="Control of AI-agent conversations, each in a sandbox of its own.",
        docs_url=None,  # its pages load their scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        exception_handlers={**dict.fromkeys(HANDLED, handle), HTTPStatus.METHOD_NOT_ALLOWED: _refuse_method},
        middleware=[Middleware(Containment)],
    )
    conversations = ConversationRoutes(service, parse_spec).router()
    for prefix in _PREFIXES:
        app.include_router(conversations, prefix=prefix)
    app.include_router(RuntimeRoutes(service, parse_spec).router())
    app.include_router(EventRoutes(service, ending, keep_alive).router())
    app.include_router(AppConversationRoutes(service, agent_request).router())
    app.include_router(SandboxRoutes(service).router())
    app.openapi = partial(describe, app)  # type: ignore[method-assign] # FastAPI's documented way
    return app


async def _refuse_method(request: Request, error: Exception) -> Response:
    # Several routes share a path, each with a method of its own, and the one that refuses knows only its own.
    response = await handle(request, error)
    response.headers["Allow"] = allowed_methods(request.app, request.url.path)
    return response
