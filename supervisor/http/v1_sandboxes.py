"""V1 application routes of sandboxes, as OpenHands' app server of late 2025 has them: see its `sandbox_router.py`.

Each is its conversation's only one and has its id. The front end stops a conversation by looking it up and pausing its
sandbox (`conversation-mutation-utils.ts`), and resumes that when the conversation is opened again
(`use-sandbox-recovery.ts`). The original answers success to whatever exists, also where there is nothing to do.
"""

from typing import Annotated, Final, TypeAlias

from fastapi import APIRouter, Path, Query

from supervisor.control.service import ConversationService
from supervisor.conversation.errors import InvalidTransition, NotFound
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord
from supervisor.http.models import Success
from supervisor.http.models_v1 import MOST_IDS, SandboxInfo, SandboxPage
from supervisor.http.routing import WordedRoute
from supervisor.http.v1_records import Search, find, find_all, search
from supervisor.http.v1_routing import PageSize, v1_refusals
from supervisor.http.v1_views import show_sandbox

_Ids: TypeAlias = Annotated[list[str], Query(alias="id", max_length=MOST_IDS)]
_Target: TypeAlias = Annotated[str, Path(alias="sandbox_id")]
_LOOK_ERRORS: Final = v1_refusals()
_SEARCH_ERRORS: Final = v1_refusals(404)
_COMMAND_ERRORS: Final = v1_refusals(404, 409, 429, 503, 504)
_EXISTING: Final = tuple(status for status in Status if status is not Status.ARCHIVED)
_ENDED: Final = (Status.STOPPED, Status.ARCHIVED)
_UP: Final = (Status.STARTING, Status.RUNNING)


class SandboxRoutes:
    """The routes over one service."""

    def __init__(self, service: ConversationService) -> None:
        self._service = service

    def router(self) -> APIRouter:
        """The routes, at their paths."""
        router = APIRouter(prefix="/api/v1/sandboxes", route_class=WordedRoute, tags=["V1 sandboxes"])
        one = "/{sandbox_id}"
        router.add_api_route("", self.look_up, methods=["GET"], responses=_LOOK_ERRORS)
        router.add_api_route("/search", self.search, methods=["GET"], responses=_SEARCH_ERRORS)
        router.add_api_route(f"{one}/pause", self.pause, methods=["POST"], responses=_COMMAND_ERRORS)
        router.add_api_route(f"{one}/resume", self.resume, methods=["POST"], responses=_COMMAND_ERRORS)
        router.add_api_route(one, self.delete, methods=["DELETE"], responses=_COMMAND_ERRORS)
        return router

    async def look_up(self, ids: _Ids) -> list[SandboxInfo | None]:
        """The sandboxes of these ids, null for each that is not there."""
        found = await find_all(self._service, ids)
        return [None if one is None else show_sandbox(one) for one in found]

    async def search(self, page_id: str | None = None, limit: PageSize = MOST_IDS) -> SandboxPage:
        """The sandboxes that there are, newest first; those of archived conversations are gone."""
        page = await search(self._service, Search(limit, page_id, statuses=_EXISTING))
        return SandboxPage(items=[show_sandbox(one) for one in page.items], next_page_id=page.next_page_id)

    async def pause(self, sandbox_id: _Target) -> Success:
        """Pause the agent and freeze the sandbox.

        One that is starting has no agent to pause yet, and whoever stops it does not want it to run a moment later: it
        is stopped, and a resume starts it again.
        """
        record = await self._present(sandbox_id)
        try:
            if record.status is Status.RUNNING:
                await self._service.pause(record.id, None)
            elif record.status is Status.STARTING:
                await self._service.stop(record.id, None, force=False)
        except InvalidTransition as error:
            if error.status in _UP:
                raise
        return Success()

    async def resume(self, sandbox_id: _Target) -> Success:
        """Let the sandbox go on: thawed if it was frozen, booted over its workspace if it was stopped or failed."""
        record = await self._present(sandbox_id)
        try:
            if record.status is Status.PAUSED:
                await self._service.resume(record.id, None)
            elif record.status not in _UP:
                await self._service.restart(record.id, None, force=False)
        except InvalidTransition as error:
            if error.status not in _UP:
                raise
        return Success()

    async def delete(self, sandbox_id: _Target) -> Success:
        """Remove the conversation with its sandbox and its workspace for ever.

        Nothing of it is kept, so a sandbox that runs is not asked to end in peace.
        """
        record = await self._existing(sandbox_id)
        if record.status not in _ENDED:
            await self._service.stop(record.id, None, force=True)
        await self._service.delete(record.id)
        return Success()

    async def _existing(self, sandbox: str) -> ConversationRecord:
        """The conversation of a sandbox.

        Raises:
            NotFound: there is none of this id.
        """
        record = await find(self._service, sandbox)
        if record is None:
            raise NotFound(f"there is no sandbox {sandbox[:64]}")
        return record

    async def _present(self, sandbox: str) -> ConversationRecord:
        """The same, of one that is not archived.

        Raises:
            NotFound: there is no such sandbox, or no more.
        """
        record = await self._existing(sandbox)
        if record.status is Status.ARCHIVED:
            raise NotFound(f"the sandbox {record.id} is gone: its conversation was archived")
        return record
