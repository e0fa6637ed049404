"""V1 application routes of conversations and of their starts, as OpenHands' app server of late 2025 has them.

See its `app_conversation_router.py`. A start task is the conversation's own start: it has its id, and its status is
read off its record. Not here are the routes that read from a sandbox or change a title.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Final, Literal, TypeAlias

from fastapi import APIRouter, Query

from supervisor.control.service import ConversationService, StartRequest
from supervisor.conversation.errors import Conflict
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.json import JsonObject, JsonValue
from supervisor.conversation.record import ConversationRecord
from supervisor.http.agent_request import lay_over
from supervisor.http.models import Id
from supervisor.http.models_v1 import (
    MOST_IDS,
    AppConversation,
    AppConversationPage,
    StartConversation,
    StartTask,
    StartTaskPage,
)
from supervisor.http.routing import WordedRoute
from supervisor.http.seeing import see
from supervisor.http.v1_records import Search, find, find_all, new_id, search
from supervisor.http.v1_routing import Moment, PageSize, v1_refusals
from supervisor.http.v1_views import TITLE, TRIGGER, show_conversation, show_task
from supervisor.http.views import title_of

_Ids: TypeAlias = Annotated[
    list[Id], Query(max_length=MOST_IDS, description="UUIDs may be written with dashes or without.")
]
_Order: TypeAlias = Literal["CREATED_AT", "CREATED_AT_DESC"]
_LOOK_ERRORS: Final = v1_refusals()
_SEARCH_ERRORS: Final = v1_refusals(404)
_START_ERRORS: Final = v1_refusals(409, 429, 503, 504)


class AppConversationRoutes:
    """The routes over one service. `agent_request` says what lies under the request of every start."""

    def __init__(self, service: ConversationService, agent_request: Callable[[], JsonObject]) -> None:
        self._service = service
        self._agent_request = agent_request

    def router(self) -> APIRouter:
        """The routes, at their paths."""
        router = APIRouter(prefix="/api/v1/app-conversations", route_class=WordedRoute, tags=["V1 conversations"])
        router.add_api_route("", self.start, methods=["POST"], responses=_START_ERRORS)
        router.add_api_route("", self.look_up, methods=["GET"], responses=_LOOK_ERRORS)
        router.add_api_route("/search", self.search, methods=["GET"], responses=_SEARCH_ERRORS)
        router.add_api_route("/start-tasks", self.look_up_tasks, methods=["GET"], responses=_LOOK_ERRORS)
        router.add_api_route("/start-tasks/search", self.search_tasks, methods=["GET"], responses=_SEARCH_ERRORS)
        return router

    async def start(self, body: StartConversation) -> StartTask:
        """Begin to start a conversation, and answer at once with its start task, to be asked for until it is READY."""
        wanted = body.conversation_id or body.sandbox_id
        known = None if wanted is None else await find(self._service, wanted)
        _check_sandbox(body, known)
        conversation = new_id(wanted) if known is None else known.id
        record = await self._service.start(start_request(conversation, body, self._agent_request()))
        return show_task(await see(self._service, record))

    async def look_up(self, ids: _Ids) -> list[AppConversation | None]:
        """The conversations of these ids, null for each that is not there."""
        found = await find_all(self._service, ids)
        return [None if one is None else show_conversation(one) for one in found]

    async def search(
        self,
        *,
        title__contains: str | None = None,
        created_at__gte: Moment | None = None,
        created_at__lt: Moment | None = None,
        updated_at__gte: Moment | None = None,
        updated_at__lt: Moment | None = None,
        sandbox_id__eq: str | None = None,
        page_id: str | None = None,
        limit: PageSize = MOST_IDS,
        include_sub_conversations: bool = False,  # noqa: ARG002 - there are none to leave out
    ) -> AppConversationPage:
        """Conversations, newest first, with what reaches the agent servers of those that are RUNNING."""

        def keep(record: ConversationRecord) -> bool:
            return (
                (title__contains is None or title__contains in title_of(record))
                and (created_at__lt is None or record.created_at < created_at__lt)
                and (updated_at__gte is None or record.updated_at >= updated_at__gte)
                and (updated_at__lt is None or record.updated_at < updated_at__lt)
            )

        page = await search(self._service, Search(limit, page_id, keep, created_at__gte, sandbox_id__eq))
        return AppConversationPage(items=[show_conversation(one) for one in page.items], next_page_id=page.next_page_id)

    async def look_up_tasks(self, ids: _Ids) -> list[StartTask | None]:
        """The start tasks of these ids, null for each that is not there."""
        found = await find_all(self._service, ids)
        return [None if one is None else show_task(one) for one in found]

    async def search_tasks(
        self,
        *,
        conversation_id__eq: str | None = None,
        created_at__gte: Moment | None = None,
        sort_order: _Order = "CREATED_AT_DESC",
        page_id: str | None = None,
        limit: PageSize = MOST_IDS,
    ) -> StartTaskPage:
        """The starts of all conversations."""
        newest_first = sort_order == "CREATED_AT_DESC"
        wanted = Search(limit, page_id, since=created_at__gte, only=conversation_id__eq, newest_first=newest_first)
        page = await search(self._service, wanted)
        return StartTaskPage(items=[show_task(one) for one in page.items], next_page_id=page.next_page_id)


def start_request(conversation: ConversationId, body: StartConversation, defaults: JsonObject) -> StartRequest:
    """What the service is asked for. What the body says goes before `defaults`, and its single keys before its objects.

    The places of model and suffix are those of the agent server's start call.
    """
    layers: list[JsonObject] = [body.model_dump(include={"agent_settings", "workspace"}, exclude_none=True)]
    if body.initial_message is not None:
        layers.append({"initial_message": body.initial_message.model_dump()})
    if body.llm_model is not None:
        layers.append({"agent_settings": {"llm": {"model": body.llm_model}}})
    if body.system_message_suffix is not None:
        suffix: JsonObject = {"system_message_suffix": body.system_message_suffix}
        layers.append({"agent_settings": {"agent_context": suffix}})
    labels = {TITLE: body.title, TRIGGER: body.trigger}
    return StartRequest(
        id=conversation,
        request=_laid(defaults, layers),
        labels={name: value for name, value in labels.items() if value is not None},
        wait=False,
    )


def _laid(request: JsonObject, layers: list[JsonObject]) -> JsonObject:
    laid: JsonValue = request
    for layer in layers:
        laid = lay_over(laid, layer)
    assert isinstance(laid, Mapping)  # noqa: S101 - objects over an object
    return laid


def _check_sandbox(body: StartConversation, known: ConversationRecord | None) -> None:
    """See that the sandbox that is asked for can be the conversation's own.

    Raises:
        Conflict: it is another conversation's.
    """
    if body.sandbox_id is None:
        return
    if known is not None or new_id(body.sandbox_id) != new_id(body.conversation_id or body.sandbox_id):
        raise Conflict("each conversation has a sandbox of its own, of its own id: leave sandbox_id out")
