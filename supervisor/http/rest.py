"""Conversation control over REST: each route is one call of the `ConversationService`."""

from collections.abc import Mapping
from typing import Annotated, Any, Final, TypeAlias

from fastapi import APIRouter, Header, Path, Query

from supervisor.control import messages
from supervisor.control.messages import structure_params
from supervisor.control.methods import SpecParser, start_request
from supervisor.control.service import ConversationService
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.json import JsonValue
from supervisor.conversation.lifecycle import Status
from supervisor.http.models import (
    ID_PATTERN,
    CommandBody,
    ConversationAnswer,
    ConversationInfo,
    ConversationPage,
    CreateBody,
    ForcibleBody,
    StartBody,
    Success,
)
from supervisor.http.openapi import refusals
from supervisor.http.routing import StrictRoute
from supervisor.http.seeing import see
from supervisor.http.views import acknowledge, show

_Target: TypeAlias = Annotated[str, Path(alias="conversation_id", pattern=ID_PATTERN)]
_Force: TypeAlias = Annotated[bool | None, Query(description="Forced is what either this or the body says.")]
_Legacy: TypeAlias = Annotated[
    bool, Query(description="Report PAUSED as STOPPED, for clients that know five statuses.")
]
_Key: TypeAlias = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=256)]

_QUERY_ERRORS: Final = refusals(404)
_COMMAND_ERRORS: Final = refusals(404, 409, 429, 503, 504)
_START_ERRORS: Final = refusals(409, 429, 503, 504)


class ConversationRoutes:
    """The routes of one service."""

    def __init__(self, service: ConversationService, parse_spec: SpecParser) -> None:
        self._service = service
        self._parse_spec = parse_spec

    def router(self) -> APIRouter:
        """The routes below any prefix."""
        router = APIRouter(route_class=StrictRoute, tags=["conversations"])
        one = "/{conversation_id}"
        router.add_api_route("", self.create, methods=["POST"], responses=_START_ERRORS)
        router.add_api_route("", self.list_page, methods=["GET"], responses=_QUERY_ERRORS)
        router.add_api_route(one, self.get, methods=["GET"], responses=_QUERY_ERRORS)
        router.add_api_route(one, self.delete, methods=["DELETE"], responses=_COMMAND_ERRORS)
        router.add_api_route(f"{one}/start", self.start, methods=["POST"], responses=_START_ERRORS)
        for command in (self.pause, self.resume, self.stop, self.restart, self.archive):
            router.add_api_route(f"{one}/{command.__name__}", command, methods=["POST"], responses=_COMMAND_ERRORS)
        return router

    async def create(self, body: CreateBody | None = None, idempotency_key: _Key = None) -> ConversationAnswer:
        """Start a conversation; without an id, one is made."""
        return await self._start({}, body or CreateBody(), idempotency_key)

    async def start(
        self, conversation_id: _Target, body: StartBody | None = None, idempotency_key: _Key = None
    ) -> ConversationAnswer:
        """Start a conversation of this id, or answer with the one that is there."""
        return await self._start({"id": conversation_id}, body or StartBody(), idempotency_key)

    async def pause(self, conversation_id: _Target, body: CommandBody | None = None) -> Success:
        """Pause the agent and freeze its sandbox."""
        target = _timed(conversation_id, body)
        await self._service.pause(target.id, target.timeout)
        return Success()

    async def resume(self, conversation_id: _Target, body: CommandBody | None = None) -> Success:
        """Let a paused conversation go on."""
        target = _timed(conversation_id, body)
        await self._service.resume(target.id, target.timeout)
        return Success()

    async def stop(
        self, conversation_id: _Target, body: ForcibleBody | None = None, force: _Force = None
    ) -> ConversationAnswer:
        """End the sandbox: gracefully, or at once with `force`."""
        target = _forcible(conversation_id, body, force)
        stopped = await self._service.stop(target.id, target.timeout, force=target.force)
        message = "Conversation stopped successfully" if stopped.was_running else "Conversation was not running"
        return acknowledge(stopped.record, message)

    async def restart(
        self, conversation_id: _Target, body: ForcibleBody | None = None, force: _Force = None
    ) -> ConversationAnswer:
        """Start a stopped or failed conversation again in its workspace; with `force` also one that runs."""
        target = _forcible(conversation_id, body, force)
        record = await self._service.restart(target.id, target.timeout, force=target.force)
        return acknowledge(record, "Conversation restarted successfully")

    async def archive(self, conversation_id: _Target, body: CommandBody | None = None) -> ConversationAnswer:
        """Remove a stopped conversation's sandbox and keep its record."""
        target = _timed(conversation_id, body)
        record = await self._service.archive(target.id, target.timeout)
        return acknowledge(record, "Conversation archived successfully")

    async def delete(self, conversation_id: _Target) -> Success:
        """Remove a stopped or archived conversation for ever."""
        await self._service.delete(ConversationId(conversation_id))
        return Success()

    async def get(self, conversation_id: _Target, legacy_status: _Legacy = False) -> ConversationInfo:
        """The conversation as it is; while it is RUNNING, with what reaches its agent server."""
        seen = await see(self._service, await self._service.get(ConversationId(conversation_id)))
        return show(seen.record, seen.access, legacy=legacy_status)

    async def list_page(
        self,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        page_id: str | None = None,
        status: Annotated[list[Status] | None, Query()] = None,
        legacy_status: _Legacy = False,
    ) -> ConversationPage:
        """Conversations that have one of the statuses, page by page; without the keys to their agent servers."""
        statuses = status or []
        if legacy_status and Status.STOPPED in statuses:
            statuses = [*statuses, Status.PAUSED]  # which these clients are shown as STOPPED
        page = await self._service.list(statuses, {}, limit, page_id)
        results = [show(record, None, legacy=legacy_status) for record in page.items]
        return ConversationPage(results=results, next_page_id=page.next_cursor)

    async def _start(self, target: Mapping[str, JsonValue], body: StartBody, key: str | None) -> ConversationAnswer:
        params = {**_given(body), **target, "idempotency_key": key or body.idempotency_key}
        params.pop("providers_set", None)
        request = start_request(structure_params(params, messages.Start), self._parse_spec)
        record = await self._service.start(request)
        return acknowledge(record, f"Conversation is {record.status}")


def _given(body: CommandBody | StartBody | None) -> dict[str, Any]:
    return {} if body is None else body.model_dump(exclude_none=True)


def _timed(conversation: str, body: CommandBody | None) -> messages.TimedCommand:
    return structure_params({"id": conversation, **_given(body)}, messages.TimedCommand)


def _forcible(conversation: str, body: ForcibleBody | None, force: bool | None) -> messages.ForcibleCommand:
    given = _given(body)
    forced = bool(force or given.get("force"))
    return structure_params({**given, "id": conversation, "force": forced}, messages.ForcibleCommand)
