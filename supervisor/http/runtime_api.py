"""The runtime API, for clients of a hosted runtime: sandboxes with an agent server that they give conversations to.

A runtime is a conversation with the label `session_id`, whose agent server is its clients' own affair: its driver is
`server`. Nothing is kept here: `runtime_id` is the conversation's id, and a session is looked up by its label.

What the clients expect, beside what `runtime_views` says, from the same sources:

- A start of a session that is there is not refused by any of them, but answered: that of one that lives with what there
  is (a paused one is resumed), that of one that was stopped or has failed with a restart, its files kept.
- They take `url` and `session_api_key` from the answer to `/start` once and for all, but wait for that answer for 10
  (`remote_runtime_api_timeout`) or 300 seconds only. So it comes when the server is ready, which a failed boot in
  between cannot make wrong any more, but at the latest soon after 8 seconds, and then they poll.
- `/stop` is how they forget a runtime: nothing else would ever remove what it leaves behind, so nothing is left.
- They read a `detail` where something fails: see `routing`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Final, TypeAlias
from weakref import WeakValueDictionary

import trio
from fastapi import APIRouter, Path, Query

from supervisor.control.messages import MAX_IDS
from supervisor.control.methods import SpecParser
from supervisor.control.service import ConversationService, StartRequest
from supervisor.conversation.errors import Forbidden, NotFound
from supervisor.conversation.ids import ConversationId, new_conversation_id
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord
from supervisor.http.models import ID_PATTERN, WordedErrorAnswer
from supervisor.http.models_runtime import (
    SESSION_PATTERN,
    ImageAnswer,
    ImageDetails,
    RegistryPrefix,
    RuntimeCommand,
    RuntimeInfo,
    RuntimeList,
    RuntimeStart,
    SessionId,
)
from supervisor.http.openapi import refusals
from supervisor.http.routing import WordedRoute
from supervisor.http.runtime_start import in_clients_words, is_met_by, wanted_spec
from supervisor.http.runtime_views import SESSION_LABEL, show_runtime

DRIVER: Final = "server"
ANSWER_WITHIN: Final = 8.0

_PAGE: Final = 1000
_LISTED: Final = (Status.STARTING, Status.RUNNING, Status.PAUSED, Status.ERROR)
_KNOWN: Final = (*_LISTED, Status.STOPPED)
_OVER: Final = (Status.STOPPED, Status.ERROR)
_QUERY_ERRORS: Final = refusals(404, body=WordedErrorAnswer)
_ENGINE_ERRORS: Final = refusals(503, body=WordedErrorAnswer)
_COMMAND_ERRORS: Final = refusals(404, 409, 429, 503, 504, body=WordedErrorAnswer)
_START_ERRORS: Final = refusals(409, 429, 503, 504, body=WordedErrorAnswer)

_Session: TypeAlias = Annotated[str, Path(pattern=SESSION_PATTERN)]
_Runtime: TypeAlias = Annotated[str, Path(pattern=ID_PATTERN)]


class RuntimeRoutes:
    """The routes of one service."""

    def __init__(self, service: ConversationService, parse_spec: SpecParser) -> None:
        self._service = service
        self._parse_spec = parse_spec
        self._starting: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()

    def router(self) -> APIRouter:
        """The routes, at the root."""
        router = APIRouter(route_class=WordedRoute, tags=["runtimes"])
        router.add_api_route("/start", self.start, methods=["POST"], responses=_START_ERRORS)
        for command in (self.pause, self.resume, self.stop):
            router.add_api_route(f"/{command.__name__}", command, methods=["POST"], responses=_COMMAND_ERRORS)
        router.add_api_route("/list", self.list_all, methods=["GET"], responses=_QUERY_ERRORS)
        router.add_api_route("/sessions/batch", self.get_sessions, methods=["GET"], responses=_QUERY_ERRORS)
        router.add_api_route("/sessions/{session_id}", self.get_session, methods=["GET"], responses=_QUERY_ERRORS)
        router.add_api_route("/runtime/{runtime_id}", self.get_runtime, methods=["GET"], responses=_QUERY_ERRORS)
        router.add_api_route("/image_exists", self.image_exists, methods=["GET"], responses=_ENGINE_ERRORS)
        router.add_api_route("/registry_prefix", self.registry_prefix, methods=["GET"], responses=_QUERY_ERRORS)
        return router

    async def start(self, body: RuntimeStart) -> RuntimeInfo:
        """Start a session's runtime, or answer with the one that it has.

        A session that was stopped elsewhere, or has failed, is restarted if it is to be what it was; else it is removed
        for a new one.
        """
        conversation = new_conversation_id()
        session = body.session_id or conversation
        spec = wanted_spec(body, self._service.defaults(), self._parse_spec)
        new = StartRequest(conversation, DRIVER, spec, labels={SESSION_LABEL: session})
        # Two at once would make two runtimes for one session.
        async with self._starting.setdefault(session, trio.Lock()):
            known = await self._find(session)
            if known is not None and known.status in _OVER and not is_met_by(spec, known.spec):
                await self._remove(known.id)
                known = None
            return await self._started(new, known)

    async def pause(self, body: RuntimeCommand) -> RuntimeInfo:
        """Freeze a runtime's sandbox."""
        return self._show(await self._service.pause((await self._owned(body.runtime_id)).id, None))

    async def resume(self, body: RuntimeCommand) -> RuntimeInfo:
        """Let a paused runtime go on. One whose memory was lost has another URL and key then."""
        record = await self._owned(body.runtime_id)
        with trio.move_on_after(ANSWER_WITHIN):
            return self._show(await self._service.resume(record.id, None))
        return self._show(await self._service.get(record.id))

    async def stop(self, body: RuntimeCommand) -> RuntimeInfo:
        """End a runtime and remove it, with its workspace, which is exported first where the config says so."""
        record = await self._owned(body.runtime_id)
        return self._show(await self._remove(record.id))

    async def list_all(self) -> RuntimeList:
        """All runtimes but those that are stopped."""
        return RuntimeList(runtimes=[self._show(record) for record in await self._find_all(_LISTED, {})])

    async def get_sessions(self, ids: Annotated[list[SessionId], Query(max_length=MAX_IDS)]) -> list[RuntimeInfo]:
        """The runtimes of some sessions; those that have none are left out."""
        records = {record.labels[SESSION_LABEL]: record for record in await self._find_all(_KNOWN, {})}
        return [self._show(records[session]) for session in dict.fromkeys(ids) if session in records]

    async def get_session(self, session_id: _Session) -> RuntimeInfo:
        """The runtime of a session."""
        record = await self._find(session_id)
        if record is None:
            raise NotFound(f"session {session_id} has no runtime")
        return self._show(record)

    async def get_runtime(self, runtime_id: _Runtime) -> RuntimeInfo:
        """A runtime."""
        return self._show(await self._owned(runtime_id))

    async def image_exists(self, image: Annotated[str, Query(min_length=1)]) -> ImageAnswer:
        """Whether an image is on the engine's host."""
        found = await self._service.find_image(image)
        details = None if found is None else ImageDetails(upload_time=found.created, image_size_bytes=found.size)
        return ImageAnswer(exists=found is not None, image=details)

    async def registry_prefix(self) -> RegistryPrefix:
        """Where clients are to look for images: where the config's own comes from."""
        await trio.lowlevel.checkpoint()
        return RegistryPrefix(registry_prefix=self._service.defaults().image.rpartition("/")[0])

    async def _started(self, new: StartRequest, known: ConversationRecord | None) -> RuntimeInfo:
        """Start, and answer when it runs; or, if that takes too long, as soon as it can be reached."""
        assert new.id is not None  # noqa: S101 - made by us
        conversation = new.id if known is None else known.id
        with trio.move_on_after(ANSWER_WITHIN):
            try:
                await self._begin(new, known)
            except Forbidden as error:
                raise in_clients_words(error) from None
            return self._show(await self._when(conversation, lambda _: False))
        return self._show(await self._when(conversation, lambda record: self._service.access(record) is not None))

    async def _begin(self, new: StartRequest, known: ConversationRecord | None) -> None:
        if known is None:
            await self._service.start(new)
        elif known.status in _OVER:
            await self._service.restart(known.id, None, force=False)
        else:
            await self._service.start(StartRequest(known.id))

    async def _when(
        self, conversation: ConversationId, is_enough: Callable[[ConversationRecord], bool]
    ) -> ConversationRecord:
        """The conversation when it is not starting any more, or when it is enough."""
        async with self._service.subscribe(None, frozenset({conversation}), snapshot=False) as events:
            record = await self._service.get(conversation)
            if record.status is not Status.STARTING or is_enough(record):
                return record
            async for _ in events:
                record = await self._service.get(conversation)
                if record.status is not Status.STARTING or is_enough(record):
                    return record
        raise AssertionError("a subscription has no end")

    async def _remove(self, conversation: ConversationId) -> ConversationRecord:
        stopped = await self._service.stop(conversation, None, force=False)
        await self._service.archive(conversation, None)
        await self._service.delete(conversation)
        return stopped.record

    async def _owned(self, runtime: str) -> ConversationRecord:
        record = await self._service.get(ConversationId(runtime))
        if SESSION_LABEL not in record.labels:
            raise NotFound(f"there is no runtime {runtime}")
        return record

    async def _find(self, session: str) -> ConversationRecord | None:
        """The newest runtime of a session."""
        page = await self._service.list(_KNOWN, {SESSION_LABEL: session}, 1, None, newest_first=True)
        return page.items[0] if page.items else None

    async def _find_all(self, statuses: Sequence[Status], labels: Mapping[str, str]) -> list[ConversationRecord]:
        """All runtimes, oldest first."""
        found: list[ConversationRecord] = []
        cursor: str | None = None
        while True:
            page = await self._service.list(statuses, labels, _PAGE, cursor)
            found += (record for record in page.items if SESSION_LABEL in record.labels)
            cursor = page.next_cursor
            if cursor is None:
                return found

    def _show(self, record: ConversationRecord) -> RuntimeInfo:
        return show_runtime(record, self._service.access(record))
