"""The table of methods: how each is answered by the `ConversationService`, or by the caller's own session."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol, TypeAlias, TypeVar

import attrs
import trio

from supervisor.control import messages, views, wire
from supervisor.control.messages import InvalidParams, structure_params
from supervisor.control.service import ConversationService, StartRequest
from supervisor.control.wire import Failure, Request, RpcCode
from supervisor.conversation.errors import ConversationdError
from supervisor.conversation.json import JsonObject
from supervisor.conversation.spec import SpecOverrides
from supervisor.incidents import report_incident

EMPTY: Final = "{}"

SpecParser: TypeAlias = Callable[[JsonObject], SpecOverrides]
"""Reads a caller's `spec`; raises `InvalidParams` with paths like `spec.memory`."""


def _nothing() -> None:
    """What mostly follows an answer."""


@attrs.frozen
class Reply:
    """A method's result as JSON text, and what begins once it is on its way to the caller."""

    result: str
    then: Callable[[], None] = _nothing


@attrs.frozen
class Answer:
    """The frame that answers a request (None for a notification), and what begins once it is queued."""

    frame: str | None
    then: Callable[[], None] = _nothing


class Session(Protocol):
    """What a connection does itself for its caller: everything that lasts longer than an answer."""

    async def subscribe(self, params: messages.Subscribe) -> Reply:
        """Begin a subscription of events, whose first one follows the reply."""

    async def follow_logs(self, params: messages.Logs) -> Reply:
        """Begin a subscription of log lines, whose first one follows the reply."""

    async def unsubscribe(self, params: messages.Unsubscribe) -> Reply:
        """End a subscription of either kind; nothing of it follows the reply."""


_Method: TypeAlias = Callable[[Session, JsonObject], Awaitable[Reply]]
_Params = TypeVar("_Params")


class Methods:
    """Every method of the protocol over one service. Shared by all connections."""

    def __init__(self, service: ConversationService, parse_spec: SpecParser) -> None:
        self._service = service
        self._parse_spec = parse_spec
        self._table: Final[Mapping[str, _Method]] = {
            "authenticate": _plain(messages.Authenticate, self._authenticate),
            "daemon.info": _plain(messages.NoParams, self._info),
            "conversation.start": _plain(messages.Start, self._start),
            "conversation.pause": _plain(messages.TimedCommand, self._pause),
            "conversation.resume": _plain(messages.TimedCommand, self._resume),
            "conversation.stop": _plain(messages.ForcibleCommand, self._stop),
            "conversation.restart": _plain(messages.ForcibleCommand, self._restart),
            "conversation.archive": _plain(messages.TimedCommand, self._archive),
            "conversation.delete": _plain(messages.Target, self._delete),
            "conversation.get": _plain(messages.Target, self._get),
            "conversation.list": _plain(messages.ListConversations, self._list),
            "conversation.connect": _plain(messages.Target, self._connect),
            "conversation.history": _plain(messages.History, self._history),
            "conversation.logs": self._logs,
            "events.subscribe": _subscribe,
            "events.unsubscribe": _unsubscribe,
        }

    async def answer(self, session: Session, request: Request) -> Answer:
        """Answer a request. Raises nothing but cancellation: what fails is answered with its error."""
        method = self._table.get(request.method)
        if method is None:
            await trio.lowlevel.checkpoint()
            return refuse(request, Failure(RpcCode.METHOD_NOT_FOUND, f"there is no method {request.method[:64]!r}"))
        try:
            reply = await method(session, request.params)
        except InvalidParams as error:
            failure = Failure(RpcCode.INVALID_PARAMS, str(error), {"path": error.path})
        except ConversationdError as error:
            failure = views.failure_of(error)
        except Exception:  # noqa: BLE001 - the boundary: any bug behind it is this one request's
            failure = views.failure_of(report_incident("control.request_failed", request.method))
        else:
            return Answer(wire.encode_result(request.id, reply.result) if request.wants_answer else None, reply.then)
        await trio.lowlevel.checkpoint()
        return refuse(request, failure)

    async def _authenticate(self, _: messages.Authenticate) -> str:
        # The connection checks the token before it lets anything through: whoever gets here is in.
        await trio.lowlevel.checkpoint()
        return EMPTY

    async def _info(self, _: messages.NoParams) -> str:
        return views.encode_info(await self._service.info())

    async def _start(self, params: messages.Start) -> str:
        request = start_request(params, self._parse_spec)
        return views.encode_conversation(await self._service.start(request))

    async def _pause(self, params: messages.TimedCommand) -> str:
        return views.encode_conversation(await self._service.pause(params.id, params.timeout))

    async def _resume(self, params: messages.TimedCommand) -> str:
        return views.encode_conversation(await self._service.resume(params.id, params.timeout))

    async def _stop(self, params: messages.ForcibleCommand) -> str:
        return views.encode_stopped(await self._service.stop(params.id, params.timeout, force=params.force))

    async def _restart(self, params: messages.ForcibleCommand) -> str:
        return views.encode_conversation(await self._service.restart(params.id, params.timeout, force=params.force))

    async def _archive(self, params: messages.TimedCommand) -> str:
        return views.encode_conversation(await self._service.archive(params.id, params.timeout))

    async def _delete(self, params: messages.Target) -> str:
        await self._service.delete(params.id)
        return EMPTY

    async def _get(self, params: messages.Target) -> str:
        return views.encode_conversation(await self._service.get(params.id))

    async def _list(self, params: messages.ListConversations) -> str:
        page = await self._service.list(params.status, params.labels or {}, params.limit, params.cursor)
        return views.encode_page(page)

    async def _connect(self, params: messages.Target) -> str:
        return views.encode_access(await self._service.connect(params.id))

    async def _history(self, params: messages.History) -> str:
        return views.encode_events(await self._service.history(params.id, params.since, params.limit))

    async def _logs(self, session: Session, params: JsonObject) -> Reply:
        wanted = structure_params(params, messages.Logs)
        if wanted.follow:
            return await session.follow_logs(wanted)
        return Reply(views.encode_lines(await self._service.logs(wanted.id, wanted.tail)))


def start_request(params: messages.Start, parse_spec: SpecParser) -> StartRequest:
    """What the service is asked for by the parameters of a start.

    Raises:
        InvalidParams: the `spec` is no spec.
    """
    return StartRequest(
        id=params.id,
        agent=params.agent,
        spec=SpecOverrides() if params.spec is None else parse_spec(params.spec),
        request=messages.as_json(params.request),
        labels=params.labels or {},
        wait=params.wait,
        timeout=params.timeout,
        idempotency_key=params.idempotency_key,
    )


def refuse(request: Request, failure: Failure) -> Answer:
    """Answer a request with an error, or not at all if it wants no answer."""
    return Answer(wire.encode_failure(request.id, failure) if request.wants_answer else None)


def _plain(kind: type[_Params], handle: Callable[[_Params], Awaitable[str]]) -> _Method:
    async def method(_: Session, params: JsonObject) -> Reply:
        return Reply(await handle(structure_params(params, kind)))

    return method


async def _subscribe(session: Session, params: JsonObject) -> Reply:
    return await session.subscribe(structure_params(params, messages.Subscribe))


async def _unsubscribe(session: Session, params: JsonObject) -> Reply:
    return await session.unsubscribe(structure_params(params, messages.Unsubscribe))
